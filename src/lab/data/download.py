"""One file over the network, whole, in bounded time."""

import contextlib
import http.client
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

log = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, twice that before the third
PASSING = {408, 425, 429}  # HTTP statuses of a server that may do better in a moment, besides all from 500


def download(url: str, timeout: float, deadline: float, limit: int) -> bytes:
    """The content at `url`, tried again where the server's trouble may pass: an error of its own, a cut connection.

    Args:
        url: `http://`, `https://` or `file://`.
        timeout: seconds that the server may stay silent.
        deadline: seconds for everything, however busily a server drips.
        limit: bytes, more of which are refused.

    Raises:
        OSError: with the cause in words, when there is no such content, or not in time.
    """
    if not url.startswith(("http://", "https://", "file://")):
        raise OSError("no address of a kind that is read: http://, https:// or file://")
    end = time.monotonic() + deadline
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _Download(timeout, deadline, end - time.monotonic()).read(url, limit)
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause, passing = _describe(error)
        pause = PAUSE * 2 ** (attempt - 1)
        if not passing or attempt == ATTEMPTS or time.monotonic() + pause > end:
            break
        log.info("%s: %s; trying again in %g s", url, cause, pause)
        time.sleep(pause)
    raise OSError(cause + (f", {attempt} times" if attempt > 1 else ""))


class _Download:
    """One attempt. A timer cuts its connections at the end: a socket's own timeout begins anew with every byte."""

    def __init__(self, timeout: float, deadline: float, left: float) -> None:
        self.timeout, self.deadline, self.left = timeout, deadline, left
        self.sockets: list[socket.socket] = []
        self.is_over = False

    def read(self, url: str, limit: int) -> bytes:
        opener = urllib.request.build_opener(*_handlers(self))
        timer = threading.Timer(self.left, self.cut)
        timer.start()
        try:
            with opener.open(url, timeout=max(0.01, min(self.timeout, self.left))) as response:
                content: bytes = response.read(limit + 1)
                promised = response.headers.get("Content-Length")
        except (OSError, http.client.HTTPException) as error:
            raise self.late() if self.is_over else error from None
        finally:
            timer.cancel()
        if self.is_over:
            raise self.late()
        if len(content) > limit:
            raise OSError(f"more than {limit} bytes")
        if promised and promised.isdigit() and len(content) < int(promised):
            raise ConnectionError(f"closed after {len(content)} of {promised} bytes")
        return content

    def late(self) -> OSError:
        return TimeoutError(f"not done after {self.deadline:g} s")

    def watch(self, connection: socket.socket) -> None:
        self.sockets.append(connection)
        if self.is_over:
            raise self.late()

    def cut(self) -> None:
        self.is_over = True
        for connection in self.sockets:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


def _handlers(download: _Download) -> list[urllib.request.BaseHandler]:
    """The handlers of urllib, whose connections `download` can cut."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            download.watch(self.sock)

    class Encrypted(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            download.watch(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Plain, req)

    class EncryptedHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Encrypted, req)

    return [PlainHandler(), EncryptedHandler()]


def _describe(error: Exception) -> tuple[str, bool]:
    """What went wrong, in words, and whether it may pass."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}", error.code >= 500 or error.code in PASSING
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return str(error) if str(error).startswith("not done") else "the server stays silent", False
    if isinstance(error, ConnectionError | http.client.IncompleteRead):
        return str(error) or type(error).__name__, True
    if isinstance(error, http.client.HTTPException):
        return f"this is no HTTP server ({type(error).__name__})", False
    return str(getattr(error, "reason", None) or error), False
