"""Choices beside an upload, on a real mount: NAME.ova.toml, as tools write it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from ovafs.inventory.pool import Pool
from tests.support import signing
from tests.support.drop import Place, place_in
from tests.support.processes import run
from tests.support.signing import Authority, signed_package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.model import Machine


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("drop")) as place:
        yield place


def machine(place: Place, name: str) -> Machine:
    with contextlib.closing(Pool(str(place.pool))) as pool:
        return pool.find(name)


def choose(place: Place, name: str, text: str) -> Path:
    """A file with choices for ``name``, outside of the mount."""
    path = place.folder / f"{name}.ova.toml"
    path.write_text(text, encoding="utf-8")
    return path


TOOLS = {
    "cp": "cp $T $D && cp $S $D",
    "cp-a": "cp -a $T $D && cp -a $S $D",
    "mv": "mv $T $D && mv $S $D",
    "rsync": "rsync -a $T $D && rsync -a $S $D",
    "rsync-both": "rsync -a --delay-updates $T $D && rsync -a --delay-updates $S $D",
    "inplace": "rsync --inplace $T $D && rsync --inplace $S $D",
    "part": "cp $T $D && cp $S $D/part.ova.part && mv $D/part.ova.part $D/part.ova",
    "cat": "cat $T > $D/cat.ova.toml && cat $S > $D/cat.ova",
    "install": "install -m 600 $T $D && install -m 600 $S $D",
    "dd": "dd if=$T of=$D/dd.ova.toml bs=7 conv=fsync status=none && dd if=$S of=$D/dd.ova bs=70000 status=none",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools(shared: Place, tool: str) -> None:
    if tool.startswith(("rsync", "inplace")) and shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    chosen = choose(shared, tool, f'name = "{tool} chosen"\nmemory = "3GiB"\n[disks."d.raw"]\nformat = "raw"\n')
    source = shared.package(tool)
    run("bash", "-ec", TOOLS[tool], env={"S": str(source), "T": str(chosen), "D": str(shared.drop)})
    made = machine(shared, f"{tool} chosen")
    assert (made.memory, made.disks[0].volume.format) == (3 << 30, "raw")
    assert f"{tool}.ova" in shared.names()
    assert f"{tool}.ova.toml" not in shared.names()  # it is used up


def test_they_can_be_read_back_and_rewritten(shared: Place) -> None:
    path = shared.drop / "again.ova.toml"
    path.write_text('name = "a rather long name"\n', encoding="utf-8")
    assert path.read_text(encoding="utf-8") == 'name = "a rather long name"\n'
    path.write_text('name = "short"\n', encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write("cpus = 3\n")
    assert path.read_text(encoding="utf-8") == 'name = "short"\ncpus = 3\n'
    os.truncate(path, 15)
    assert path.read_text(encoding="utf-8") == 'name = "short"\n'
    path.rename(shared.drop / "other.ova.toml")
    run("cp", shared.package("again"), shared.drop)
    run("cp", shared.package("other"), shared.drop)
    assert machine(shared, "again")
    assert machine(shared, "short")
    assert [name for name in shared.names() if name.endswith(".toml")] == []
    path.touch()
    path.unlink()
    assert not path.exists()


def test_a_wrong_file_is_refused_and_so_is_the_upload_that_follows(shared: Place) -> None:
    target = shared.drop / "wrong.ova.toml"
    result = run("cp", choose(shared, "wrong", 'memroy = "4GiB"\n'), target, status=1)
    assert "Invalid argument" in result.stderr
    report = (shared.drop / "wrong.ova.toml.report.txt").read_text(encoding="utf-8")
    assert report.startswith("wrong.ova.toml: NOT ACCEPTED\n")
    assert "reason:   drop/wrong.ova.toml: the key 'memroy' is not known" in report
    assert "known are name, description, os, memory" in report
    shared.mount.expect_log("drop/wrong.ova.toml: the key 'memroy' is not known")

    assert run("cat", target).stdout == 'memroy = "4GiB"\n'
    source = shared.package("wrong")
    assert "Invalid argument" in run("cp", source, shared.drop, status=1).stderr
    report = (shared.drop / "wrong.ova.report.txt").read_text(encoding="utf-8")
    assert "reason:   drop/wrong.ova.toml: the key 'memroy' is not known" in report
    assert "correct the file, or remove it" in report
    with contextlib.closing(Pool(str(shared.pool))) as pool:
        assert ("vm", "wrong") not in pool.taken().names

    run("cp", choose(shared, "wrong", 'name = "right"\n'), target)
    assert not (shared.drop / "wrong.ova.toml.report.txt").exists()
    run("cp", source, shared.drop)
    assert machine(shared, "right")
    assert not target.exists()


def test_a_file_that_fits_not_this_package(shared: Place) -> None:
    shared.drop.joinpath("fit.ova.toml").write_text("[disks.9]\nformat = 'raw'\n", encoding="utf-8")
    assert "Invalid argument" in run("cp", shared.package("fit"), shared.drop, status=1).stderr
    report = (shared.drop / "fit.ova.report.txt").read_text(encoding="utf-8")
    shared.mount.expect_log("drop/fit.ova: not imported: there is no disk '9'")
    assert "there is no disk '9' in the package; its disks are: 1: d.raw (disk0)" in report
    assert (shared.drop / "fit.ova.toml").exists()
    shared.mount.expect_log("drop/wrong.ova: not imported: drop/wrong.ova.toml")


def test_an_upload_whose_name_comes_late(shared: Place) -> None:
    """Everything but the format counts; and a wrong file then costs no upload."""
    path = shared.drop / "late.ova.toml"
    path.write_text('name = "late chosen"\nformat = "raw"\n', encoding="utf-8")
    run("cp", shared.package("late"), shared.drop / "upload.part")
    with contextlib.suppress(OSError):
        path.write_text("x", encoding="utf-8")
    with pytest.raises(OSError, match="Invalid argument") as error:
        (shared.drop / "upload.part").rename(shared.drop / "late.ova")
    assert error.value.errno == errno.EINVAL
    shared.mount.expect_log("WARNING drop/late.ova.toml: this is not TOML")
    shared.mount.expect_log("drop/upload.part: not imported: drop/late.ova.toml: this is not TOML")
    assert (shared.drop / "upload.part").exists()
    path.write_text('name = "late chosen"\nformat = "raw"\n', encoding="utf-8")
    (shared.drop / "upload.part").rename(shared.drop / "late.ova")
    assert machine(shared, "late chosen").disks[0].volume.format == "qcow2"
    report = (shared.drop / "late.ova.report.txt").read_text(encoding="utf-8")
    assert "d.raw: the format raw was chosen too late; it was taken in as qcow2" in report
    assert not path.exists()


def test_choices_that_are_written_during_the_upload_are_for_the_next_one(shared: Place) -> None:
    data = shared.package("during").read_bytes()
    target, path = shared.drop / "during.ova", shared.drop / "during.ova.toml"
    with target.open("wb", buffering=0) as file:
        file.write(data[:100_000])
        path.write_text('name = "next"\n', encoding="utf-8")
        file.write(data[100_000:])
    assert machine(shared, "during")
    assert path.exists()
    target.write_bytes(data)
    assert machine(shared, "next")
    assert not path.exists()


def test_choices_of_the_mount(tmp_path: Path) -> None:
    """The file beside the upload has the last word."""
    with place_in(tmp_path, "drop_clash=refuse,drop_network=lan") as place:
        run("cp", place.package("web"), place.drop)
        assert "File exists" in run("cp", place.package("web"), place.drop / "other.ova", status=1).stderr
        place.mount.expect_log("drop/other.ova: not imported: the name 'web' is taken by another vm")
        (place.drop / "other.ova.toml").write_text('on_clash = "suffix"\n', encoding="utf-8")
        run("cp", place.package("web"), place.drop / "other.ova")
        assert machine(place, "web-2")


def test_a_mount_that_shows_some_machines_imports_all(tmp_path: Path) -> None:
    with place_in(tmp_path, "include=web*") as place:
        for name in ("web", "db"):
            run("cp", place.package(name), place.drop)
            assert machine(place, name)
        assert os.listdir(place.mount.path / "vms") == ["web.ova"]
        assert [name for name in place.names() if name.endswith(".ova")] == ["db.ova", "web.ova"]


def test_signatures_that_the_mount_requires(tmp_path: Path) -> None:
    """The writer is told, and a file beside the upload cannot choose otherwise."""
    authority = Authority(tmp_path)
    root = authority.signer("root", extension=signing.CA)
    signed = tmp_path / "signed.ova"
    signed.write_bytes(signed_package(authority.signer("vendor", root)))
    with place_in(tmp_path, f"drop_certificate=require,drop_ca_file={root.certificate}") as place:
        assert "Invalid argument" in run("cp", place.package("web"), place.drop, status=1).stderr
        place.mount.expect_log("drop/web.ova: not imported: signatures are required, but the package has no signature")
        with pytest.raises(OSError, match="Invalid argument"):
            (place.drop / "web.ova.toml").write_text('certificate = "ignore"\n', encoding="utf-8")
        place.mount.expect_log("drop/web.ova.toml: the key 'certificate' is not known")
        run("cp", signed, place.drop)
        assert machine(place, "web")


def test_what_cannot_be_a_file_of_choices(shared: Place) -> None:
    for name in ("web.toml", "web.ova.TOML"):
        with pytest.raises(PermissionError):
            (shared.drop / name).touch()
        shared.mount.expect_log(f"drop/{name}: cannot")
    with pytest.raises(OSError, match="Invalid argument"):
        (shared.drop / "large.ova.toml").write_bytes(b"#" * 70_000)
    shared.mount.expect_log("drop/large.ova.toml: longer than 65536 bytes, too long for choices")
    shared.mount.expect_log("drop/large.ova.toml: 65537 bytes are too many")
    shared.mount.expect_log("drop/large.ova: not imported: drop/large.ova.toml: 65537 bytes are too many")
    assert "Invalid argument" in run("cp", shared.package("large"), shared.drop, status=1).stderr
    (shared.drop / "large.ova.toml").unlink()
    assert [name for name in shared.names() if name.startswith("large")] == ["large.ova", "large.ova.report.txt"]
    (shared.drop / "x.ova.toml").touch()
    with pytest.raises(PermissionError):
        (shared.drop / "x.ova.toml").rename(shared.drop / "x.ova")
    (shared.drop / "x.ova.toml").unlink()
