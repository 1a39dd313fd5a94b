"""Where log lines go, and how they look."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys

from ovafs.errors import MountFailed

# sd-daemon(3): a line that begins with <N> gets syslog's priority N in the journal.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

SYSLOG_SOCKET = "/dev/log"


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def log_to_stderr(*, debug: bool) -> None:
    """Log to stderr: with priorities for the journal when it is the journal, with times otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _install(handler, debug=debug)


def log_to_file_or_syslog(path: str | None, cache_dir: str | None, *, debug: bool) -> None:
    """Log where a daemon's lines are not lost: to ``path``, else syslog, else a file in the cache directory.

    Raises MountFailed when none of them can be written.
    """
    handler: logging.Handler
    if path is None and os.path.exists(SYSLOG_SOCKET):
        handler = logging.handlers.SysLogHandler(SYSLOG_SOCKET, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"ovafs[{os.getpid()}]: %(message)s"))
    else:
        try:
            if path is None and cache_dir is not None:
                os.makedirs(cache_dir, exist_ok=True)
                path = os.path.join(cache_dir, "mount.log")
            if path is None:
                raise MountFailed("there is no syslog and no place for a log file", "say -o log=FILE")
            handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise MountFailed(f"cannot log to {path}: {error.strerror}", "say -o log=FILE") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _install(handler, debug=debug)


def _install(handler: logging.Handler, *, debug: bool) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("pyfuse3").setLevel(logging.INFO)
