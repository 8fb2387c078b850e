"""Files behind URLs, which fsspec and its backends read: patiently, and with what goes wrong in words.

Backends raise whatever the libraries under them raise. All of it becomes one sentence with the server's reason here,
and what may pass (a busy server, a connection that breaks) is tried again a few times.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from dprune.errors import InputError
from dprune.runtime import Monitor, check_stop, current_monitor

T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""Between attempts."""
CONNECT_S, READ_S = 30.0, 30.0
"""How long a web server may take to answer, and between two pieces of a file."""
LOOK_AGAIN_S = 0.1
MOST_SKIPPED = 1 << 20

AS_A_STREAM = "run dprune pack on the URL, which reads it as a stream"
_REASONS = {
    401: "the server wants credentials",
    403: "the server refuses it: the credentials are wrong, or the URL has expired",
    404: "there is no such file",
    410: "there is no such file any more",
    429: "the server is asked too often",
}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MARKS = (
    "Timeout",
    "ConnectionError",
    "ConnectError",
    "Disconnected",
    "Payload",
    "ReadError",
    "Incomplete",
    "Protocol",
)
"""Parts of the names of what HTTP libraries raise when a connection breaks, which share no class."""

_log = logging.getLogger("dprune")


class Fault(NamedTuple):
    """Why a file cannot be read, in words, and whether that may pass."""

    words: str
    passes: bool = False


class _CutError(Exception):
    """Fewer bytes came than were asked for."""


class _LengthlessError(Exception):
    """The server does not say how long the file is."""


def fault_of(error: BaseException) -> Fault:
    """Describe what a backend raised by the first of its causes that says what happened."""
    return next((fault for fault in map(_known, _causes(error)) if fault), Fault(_first_line(error)))


def _known(error: BaseException) -> Fault | None:
    if (status := _status(error)) is not None:
        reason = _REASONS.get(status, "the server failed" if status >= 500 else "the server does not give it")
        return Fault(f"{reason} (status {status})", status in _PASSING)
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    if isinstance(error, _CutError):
        return Fault("the transfer was cut short", passes=True)
    if isinstance(error, _LengthlessError):
        return Fault(f"the server does not state the file's size, which reading by offset needs: {AS_A_STREAM}")
    if isinstance(error, ValueError) and ("range requests" in str(error) or "Cannot seek" in str(error)):
        return Fault(f"the server does not send parts of files: {AS_A_STREAM}")
    if isinstance(error, ImportError):
        return Fault(f"its protocol needs a package that is not installed: {_first_line(error)}")
    if "Offline" in names:
        return Fault(f"this machine is told to stay offline: {_first_line(error)}")
    if isinstance(error, TimeoutError | ConnectionError) or any(mark in names for mark in _MARKS):
        return Fault(f"the connection failed or broke off ({_first_line(error)})", passes=True)
    if isinstance(error, FileNotFoundError) and error.__cause__ is None:
        return Fault("there is no such file")
    if isinstance(error, PermissionError):
        return Fault(f"access is denied ({_first_line(error)})")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an exception carries, wherever its library puts it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _as_status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    places = [(error, "status"), (error, "status_code"), (response, "status_code"), (error, "code")]
    # One after the other: some libraries warn of the name that others use.
    return next((status for place, name in places if (status := _as_status(getattr(place, name, None)))), None)


def _as_status(value: object) -> int | None:
    return value if type(value) is int and 400 <= value < 600 else None


def _first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")


def patiently(url: str, attempt: Callable[[], T], monitor: Monitor | None = None) -> T:
    """Return what an attempt returns, the first that succeeds.

    Args:
        url: that it reads.
        attempt: may be made again after it failed.
        monitor: is asked whether to stop while it waits, by default that of this process.

    Raises:
        InputError: every attempt failed, or one for a reason that will not pass.
        Interrupted: the monitor asked to stop.
    """
    for pause in (*PAUSES_S, None):
        try:
            return attempt()
        except (InputError, MemoryError):
            raise
        except Exception as error:
            fault = fault_of(error)
            if pause is None or not fault.passes:
                tried = f", {len(PAUSES_S) + 1} times" if fault.passes else ""
                raise InputError(f"{url}: cannot be read{tried}: {fault.words}.") from error
            _log.debug("%s: %s; trying again in %.2g s.", url, fault.words, pause)
            _wait(pause, monitor or current_monitor())
    raise AssertionError("the last attempt returns or raises")


def _wait(seconds: float, monitor: Monitor) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check_stop(monitor)
        time.sleep(min(left, LOOK_AGAIN_S))


def _found(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path inside it."""
    import fsspec

    options: dict[str, Any] = {}
    if _is_web(url):
        import aiohttp

        # By default a transfer may take five minutes in all, and a dead server as long.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        options["client_kwargs"] = {"timeout": limits}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, path


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def remote_version(url: str) -> str:
    """Return a token that changes when a file's content does, as far as the server tells.

    Raises:
        InputError: it cannot be found.
    """

    def attempt() -> str:
        system, path = _found(url)
        info = system.info(path)
        marks = [info.get(name) for name in ("size", "ETag", "Content-MD5", "Digest", "Last-Modified")]
        return "/".join([str(system.ukey(path)), *(str(mark) for mark in marks if mark is not None)])

    return patiently(url, attempt)


class RemoteBlocks:
    """A file behind a URL that is read by offset."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._file: Any = None
        self.size = patiently(url, self._known_size)

    def _known_size(self) -> int:
        system, path = _found(self.name)
        size = system.size(path)
        if size is None:
            raise _LengthlessError
        return int(size)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the file.

        Raises:
            InputError: it cannot be read.
        """
        return patiently(self.name, lambda: self._read(offset, min(size, max(0, self.size - offset))))

    def _read(self, offset: int, size: int) -> bytes:
        try:
            if self._file is None:
                system, path = _found(self.name)
                self._file = system.open(path, "rb")
            self._file.seek(offset)
            data: bytes = self._file.read(size)
            if len(data) < size:
                raise _CutError
            return data
        except BaseException:
            # What it has read ahead may be what is wrong.
            self._file = None
            raise


class RemoteStream:
    """A file behind a URL that is read from front to back, and gone on with where a connection broke.

    Args:
        url: of the file.
        monitor: is asked whether to stop between two attempts.
    """

    def __init__(self, url: str, monitor: Monitor) -> None:
        self._url, self._monitor = url, monitor
        self._file: Any = None
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, up to `size` of them and none at the end.

        Raises:
            InputError: it cannot be read.
            Interrupted: the monitor asked to stop.
        """
        data = patiently(self._url, lambda: self._read(size), self._monitor)
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._opened()
            data: bytes = self._file.read(size)
            return data
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Any:
        system, path = _found(self._url)
        if not _is_web(self._url):
            file = system.open(path, "rb")
            file.seek(self._at)
            return file
        headers = {"headers": {"Range": f"bytes={self._at}-"}} if self._at else {}
        file = system.open(path, "rb", block_size=0, **headers)
        if file.r.status != 206:
            self._skip(file, self._at)
        return file

    @staticmethod
    def _skip(file: Any, count: int) -> None:
        while count:
            if not (skipped := len(file.read(min(count, MOST_SKIPPED)))):
                raise _CutError
            count -= skipped

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(Exception):
            if self._file is not None:
                self._file.close()
        self._file = None
