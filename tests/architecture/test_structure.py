"""The shape of the code: layers, sizes, docstrings, one errno for each cause, nothing of one machine."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from ovafs import errors
from ovafs.fuse.errnos import ERRNOS
from tests.support.processes import REPOSITORY, run

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50

MODULES = sorted((REPOSITORY / "ovafs").rglob("*.py"))
# Errors that end a command before there is a mount whose requests could be answered.
WITHOUT_ERRNO = {errors.MountFailed}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_layers() -> None:
    """The contracts stand in pyproject.toml: who may import whom, who may do I/O, who knows FUSE."""
    run(Path(sys.executable).with_name("lint-imports"), "--no-cache", cwd=REPOSITORY)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_does_one_thing(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_MODULE_LINES, f"{lines} lines; at most {MAX_MODULE_LINES}"
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
    too_long = {function.name: size for function in functions if (size := _body_lines(function)) > MAX_FUNCTION_LINES}
    assert not too_long, f"longer than {MAX_FUNCTION_LINES} lines without the docstring: {too_long}"


def _body_lines(function: Function) -> int:
    assert function.end_lineno is not None
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_what_is_public_says_what_it_is(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    public = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")]
    assert [node.name for node in public if ast.get_docstring(node) is None] == []


def test_every_cause_has_an_errno() -> None:
    causes = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.OvafsError)}
    leaves = {cause for cause in causes if not cause.__subclasses__()}
    assert leaves - WITHOUT_ERRNO - set(ERRNOS) == set()
    assert set(ERRNOS) - causes == set()


def test_nothing_of_one_machine() -> None:
    """No file of the project names a folder of the machine on which it was written."""
    personal = re.compile(r"(?<![\w.])/(root|home|work|Users)/\w|/tmp/\w*venv")
    found = [
        f"{name_of(path)}: {match[0]}" for path in _texts() for match in personal.finditer(path.read_text("utf-8"))
    ]
    assert found == []


def _texts() -> list[Path]:
    patterns = ("*", ".ci/*", "ovafs/**/*", "tests/**/*", "mount_helpers/*", "systemd/*")
    paths = {path for pattern in patterns for path in REPOSITORY.glob(pattern) if path.is_file()}
    # A worktree has a file .git, which says where its repository is.
    return sorted(path for path in paths if not {"__pycache__", "data", ".git"} & set(path.parts))
