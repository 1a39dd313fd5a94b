"""The manual pages name every command and option that there is, and man(1) has nothing to complain about."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest

from ovafs.cli.main import cli
from ovafs.fuse.options import IGNORED, KERNEL_OPTIONS, MountOptions
from ovafs.inventory.selection import Selection
from tests.support.processes import REPOSITORY, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = sorted((REPOSITORY / "mount_helpers").glob("*.[1-8]"))
OF_THE_COMMAND_LINE = {"--help", "--version"}


def rendered(page: Path) -> str:
    """The page as a terminal shows it, without markup and hyphenation."""
    text = run("man", "-l", page, env={"MANWIDTH": "200", "MANROFFOPT": "-c", "MAN_KEEP_FORMATTING": ""}).stdout
    return re.sub(r".\x08|\x1b\[[\d;]*m", "", text)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from commands(child, (*path, name))


def spellings(command: click.Command) -> list[str]:
    return [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]


def test_commands_and_their_options() -> None:
    text = rendered(REPOSITORY / "mount_helpers" / "ovafs.1")
    missing = []
    for words, command in commands(cli):
        if f"ovafs {words} " not in text:
            missing.append(words)
        options = {option for option in spellings(command) if option.startswith("-")}
        missing += [f"{words} {one}" for one in options if not re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", text)]
    assert missing == []


def test_no_option_that_does_not_exist() -> None:
    text = rendered(REPOSITORY / "mount_helpers" / "ovafs.1")
    known = {option for _, command in commands(cli) for option in spellings(command)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named - known - OF_THE_COMMAND_LINE == set()


def test_mount_options() -> None:
    text = rendered(REPOSITORY / "mount_helpers" / "ovafs.1")
    section = text.split("MOUNT OPTIONS", 1)[1].split("\nFILES", 1)[0]
    options = (
        KERNEL_OPTIONS
        | set(MountOptions.__struct_fields__) - {"kernel", "selection"}
        | set(Selection.__struct_fields__)
    )
    assert [one for one in sorted(options) if not re.search(rf"\b{one}\b", section)] == []


def test_ignored_mount_options() -> None:
    text = rendered(REPOSITORY / "mount_helpers" / "mount.ovafs.8")
    assert [one for one in sorted(IGNORED) if not re.search(rf"\b{one}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_man_has_nothing_to_complain_about(page: Path) -> None:
    assert run("man", "--warnings=w", "-l", page).stderr == ""
    assert max(len(line) for line in page.read_text(encoding="utf-8").splitlines() if line[:1] != ".") <= 110
