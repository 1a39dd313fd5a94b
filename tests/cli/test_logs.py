"""Where log lines go, each way in a process of its own: handlers belong to the whole process."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

_SAY = 'logging.getLogger("ovafs.vfs").error("it broke\\nin two lines")'


def test_the_journal_gets_a_priority_for_each_line() -> None:
    script = f"import logging; from ovafs.cli import logs; logs.log_to_stderr(debug=False); {_SAY}"
    said = run(sys.executable, "-c", script, env={"JOURNAL_STREAM": "8:1234"}).stderr
    assert said == "<3>it broke\n<3>in two lines\n"


def test_a_terminal_gets_times_and_levels() -> None:
    script = f"import logging; from ovafs.cli import logs; logs.log_to_stderr(debug=False); {_SAY}"
    first, second = run(sys.executable, "-c", script).stderr.splitlines()
    assert first.endswith(" ERROR it broke")
    assert second == "in two lines"


def test_syslog_gets_what_a_daemon_says(tmp_path: Path) -> None:
    address = tmp_path / "log"
    script = (
        "import logging, sys; from ovafs.cli import logs; logs.SYSLOG_SOCKET = sys.argv[1];"
        f" logs.log_to_file_or_syslog(None, None, debug=False); {_SAY}"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(address))
        sock.settimeout(60)
        run(sys.executable, "-c", script, address)
        line = sock.recv(4096).decode()
    assert line.startswith("<27>ovafs[")  # facility daemon (3 * 8), severity error (3)
    assert "]: it broke" in line


def test_without_syslog_a_file_in_the_cache_gets_it(tmp_path: Path) -> None:
    script = (
        "import logging, sys; from ovafs.cli import logs; logs.SYSLOG_SOCKET = '/nonexistent';"
        f" logs.log_to_file_or_syslog(None, sys.argv[1], debug=False); {_SAY}"
    )
    run(sys.executable, "-c", script, tmp_path / "cache")
    assert " ERROR it broke" in (tmp_path / "cache" / "mount.log").read_text()


def test_no_place_for_a_log_is_an_error() -> None:
    script = (
        "from ovafs.cli import logs; from ovafs.errors import MountFailed; logs.SYSLOG_SOCKET = '/nonexistent'\n"
        "try: logs.log_to_file_or_syslog(None, None, debug=False)\n"
        "except MountFailed as error: print(error)"
    )
    assert run(sys.executable, "-c", script).stdout == (
        "there is no syslog and no place for a log file; say -o log=FILE\n"
    )
