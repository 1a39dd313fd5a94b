"""The first screen of the README is true: every command in it prints what stands there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import detach
from tests.support.processes import REPOSITORY, run
from tests.support.transcript import Step, execute, neutral, parse

if TYPE_CHECKING:
    from pathlib import Path

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_one_sentence_then_the_transcript() -> None:
    title, sentence, transcript = README.split("\n\n")[:3]
    assert title == "# ovafs"
    assert sentence.count(".") - sentence.count(".ova") == 1
    assert transcript.startswith("```console\n$ ")


def test_the_transcript_is_true(tmp_path: Path) -> None:
    environment = {"PATH": f"{_command_folder(tmp_path)}:/usr/sbin:/usr/bin:/sbin:/bin"}
    folder = tmp_path / "here"
    folder.mkdir()
    make_images(folder)
    try:
        printed = "".join(f"$ {step.command}\n{execute(step, folder, environment)}" for step in parse(README))
    finally:
        detach(folder / "mnt")
    expected = "".join(f"$ {step.command}\n{step.output}" for step in parse(README))
    assert neutral(printed) == neutral(expected)


def make_images(folder: Path) -> None:
    """A chain of two images: 4 MiB of data in each, 1 GiB as the guest sees it."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "1G", cwd=folder)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", "base.qcow2", cwd=folder)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "web.qcow2", cwd=folder)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 512M 4M", "web.qcow2", cwd=folder)


def _command_folder(tmp_path: Path) -> Path:
    """A folder with the ``ovafs`` command of this checkout, as an installation would put it on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "ovafs"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ovafs "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("-r--r----- 1 root root 4711 Nov  3 09:08 a.ova", "-r--r----- 1 root root 4711 Jan 23  2024 a.ova"),
        ("0/0 7 2026-11-22 22:18 vm.ovf", "0/0 7 1999-01-01 00:00 vm.ovf"),
        ("1 6f1c1f3e-5d31-4a3e-8a83-4a2b5a3c2d1e", "1 00000000-0000-4000-8000-000000000000"),
    ],
)
def test_only_what_is_bound_to_differ_may_differ(text: str, same: str) -> None:
    assert neutral(text) == neutral(same)
    assert neutral(text.replace("7", "8")) != neutral(same) or "7" not in text


def test_a_transcript_is_commands_and_their_output() -> None:
    document = "x\n```console\n$ one\na\nb\n$ two\n```\n```console\n$ other\n```\n"
    assert parse(document) == [Step("one", "a\nb\n"), Step("two", "")]
