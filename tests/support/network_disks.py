"""Servers of raw disks on loopback: NBD over TCP, HTTP with ranges, iSCSI."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import wait_until
from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def nbd_tcp(image: Path) -> Iterator[str]:
    """The URI of an image that nbdkit serves."""
    port = free_port()
    words = ("nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "-e", "disk 1", "file", image)
    with started(*words, log=image.with_suffix(".log")):
        wait_until(lambda: answers(port))
        yield f"nbd://127.0.0.1:{port}/disk%201"


class _Ranges(BaseHTTPRequestHandler):
    """One file, under any name, whole or a range of it."""

    protocol_version = "HTTP/1.1"
    content = b""

    def do_HEAD(self) -> None:
        self._answer(200, b"", len(self.content))

    def do_GET(self) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = self.content[int(match[1]) : int(match[2]) + 1] if match else self.content
        self._answer(206 if match else 200, part, len(part))

    def _answer(self, code: int, part: bytes, length: int) -> None:
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader has enough
            self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@contextlib.contextmanager
def http(image: Path, certificate: Path | None = None) -> Iterator[str]:
    """The URI of an image on a web server; with a certificate (and its key in the same file) by HTTPS."""
    handler = type("Handler", (_Ranges,), {"content": image.read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that do not like the certificate
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}/images/a%20disk.img"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def iscsi(image: Path) -> Iterator[str]:
    """The URI of an image that is LUN 1 of a target."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for tgtd's control socket")
    port = free_port()
    control = str(port % 32768)  # tgtd takes no more
    target = "iqn.2024-01.org.example:disk"
    words = ("tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}")
    with started(*words, log=image.with_suffix(".log")) as process:
        manage = ("tgtadm", "-C", control, "--lld", "iscsi")
        wait_until(lambda: answers(port))
        try:
            run(*manage, "--op", "new", "--mode", "target", "--tid", "1", "-T", target)
            lun = ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(image))
            run(*manage, *lun)
            run(*manage, "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
            yield f"iscsi://127.0.0.1:{port}/{target}/1"
        finally:
            process.kill()
