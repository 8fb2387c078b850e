"""Shards behind URLs: a web server that misbehaves in every way, and backends that raise what they like."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import dprune, ends_within, image_bytes, sample, write_tar

from dprune import console
from dprune.errors import InputError, Interrupted
from dprune.formats import remote
from dprune.formats.ranges import open_blocks, version
from dprune.formats.remote import fault_of, patiently
from dprune.formats.shards import ShardReader, open_dataset
from dprune.runtime import Silent

pytest.importorskip("aiohttp")


class Server(ThreadingHTTPServer):
    """Serves one file at every path, as it is told to.

    Attributes:
        data: the file.
        failures: statuses that the next requests get, one each.
        cuts: how many of the next answers end in the middle.
        ranges: whether it knows them.
        length: whether it says how long the file is.
        stalls: seconds before an answer.
        asked: methods and ranges of all requests.
    """

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = data
        self.failures: list[int] = []
        self.cuts, self.ranges, self.length, self.stalls = 0, True, True, 0.0
        self.asked: list[tuple[str, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def url(self, rest: str = "x.tar") -> str:
        return f"http://127.0.0.1:{self.server_port}/{rest}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.server.data)

    def _answer(self, data: bytes) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.command, asked))
        time.sleep(server.stalls)
        if server.failures:
            self.send_error(server.failures.pop(0))
            return
        begin, end = 0, len(server.data)
        if asked and server.ranges:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            begin, end = int(first), min(end, int(last or end) + 1)
        self.send_response(206 if asked and server.ranges else 200)
        if server.length:
            self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        body = data[begin:end]
        if server.cuts and len(body) > 1:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.02))
    fsspec.filesystem("http").clear_instance_cache()
    with Server((shards / "000000.tar").read_bytes()) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def embed(server: Server, output: Path, rest: str = "x.tar") -> Any:
    with ends_within(20):
        return dprune("embed", server.url(rest), "--model", "pixels", "--image-size", 4, "--workers", 0, "-o", output)


def pack(server: Server, output: Path) -> Any:
    with ends_within(20):
        return dprune("pack", server.url(), "--workers", 0, "-o", output)


def test_a_shard_is_read_by_ranges(server: Server, shards: Path) -> None:
    (shard,) = open_dataset([server.url()]).shards
    reader = ShardReader(shard, shard.index())
    assert (reader.image(3), reader.label(3)) == (image_bytes(3), 0)
    assert reader._blocks.read(len(server.data) - 5, 100) == server.data[-5:]
    assert reader._blocks.read(len(server.data) + 5, 100) == b""


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "wants credentials (status 401)"), (403, "refuses it"), (404, "there is no such file (status 404)"),
     (410, "no such file any more"), (418, "(status 418)"),
     (429, "3 times: the server is asked too often (status 429)"),
     (500, "3 times: the server failed (status 500)"), (503, "(status 503)")],
)  # fmt: skip
@pytest.mark.parametrize("command", [embed, pack])
def test_a_status_is_said(command: Any, status: int, words: str, server: Server, tmp_path: Path) -> None:
    server.failures = [status] * 50
    command(server, tmp_path / "out").fails(3, words, server.url())


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_what_passes_is_tried_again(status: int, server: Server, tmp_path: Path) -> None:
    # A file is looked for by HEAD and by GET.
    server.failures = [status] * 4
    embed(server, tmp_path / "e").ok()
    server.failures = [status] * 3
    pack(server, tmp_path / "p").ok()
    assert len(open_dataset([str(tmp_path / "p")])) == 7


def test_what_will_not_pass_is_not_tried_again(server: Server) -> None:
    server.failures = [403] * 9
    with pytest.raises(InputError, match="status 403"):
        version(server.url())
    assert [method for method, _ in server.asked] == ["HEAD", "GET"]


def test_a_cut_transfer_is_tried_again_and_then_refused(server: Server, tmp_path: Path) -> None:
    server.cuts = 1
    embed(server, tmp_path / "e").ok()
    server.cuts = 50
    embed(server, tmp_path / "f", "y.tar").fails(3, "broke off", "3 times")


def long_shard(folder: Path) -> bytes:
    """A shard of one sample that is longer than what a client reads at once."""
    return write_tar(folder / "long.tar", [*sample("a", 0), ("a.bin", bytes(range(256)) * (6 << 12))]).read_bytes()


def test_a_stream_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.data = long_shard(tmp_path)
    for ranges in (True, False):
        server.ranges, server.cuts, server.asked = ranges, 1, []
        pack(server, tmp_path / f"{ranges}").ok()
        assert (tmp_path / f"{ranges}" / "000000.tar").read_bytes().count(bytes(range(256))) == 6 << 12
        assert any(asked for _, asked in server.asked)
    server.cuts = 50
    pack(server, tmp_path / "never").fails(3, "broke off")


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges, server.data = False, long_shard(tmp_path)
    blocks = open_blocks(server.url())
    with pytest.raises(InputError, match="does not send parts of files: run dprune pack on the URL"):
        blocks.read(5 << 20, 512)
    pack(server, tmp_path / "p").ok()


def test_a_server_that_tells_no_length(server: Server, tmp_path: Path) -> None:
    server.length = False
    embed(server, tmp_path / "e").fails(3, "does not state the file's size", "dprune pack")
    pack(server, tmp_path / "p").ok()


def test_a_server_that_stalls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_S", 0.1)
    server.stalls = 0.3
    embed(server, tmp_path / "e").fails(3, "broke off", "3 times")


def test_no_server_at_all(server: Server, tmp_path: Path) -> None:
    server.server_close()
    embed(server, tmp_path / "e").fails(3, "the connection failed", server.url())
    pack(server, tmp_path / "p").fails(3, "the connection failed", server.url())


def test_credentials_stay_where_they_are(server: Server, tmp_path: Path) -> None:
    rest = "x.tar?X-Amz-Credential=AKIA/2020/s3&X-Amz-Signature=SECRET"
    result = embed(server, tmp_path / "e", rest).ok()
    server.failures = [403] * 99
    failed = embed(server, tmp_path / "f", rest.replace("x.tar", "y.tar")).fails(3, "y.tar?…: cannot be read")
    info = dprune("info", server.url(rest.replace("x.tar", "z.tar")), "--json")
    written = b"".join(path.read_bytes() for path in (tmp_path / "e").rglob("*") if path.is_file())
    assert (tmp_path / "e" / "x.safetensors").exists()
    for text in (result.err, failed.err, info.err, info.out.decode(), written.decode("latin-1")):
        assert "SECRET" not in text
        assert "AKIA" not in text


def test_a_change_is_told_by_the_length(server: Server) -> None:
    before = version(server.url())
    server.data += b"more"
    assert version(server.url()) != before


class Named(Exception):
    """What a library raises that shares no class with any other."""


def raised(name: str, **attributes: object) -> Exception:
    error = type(name, (Named,), {})("words of the library\nand more")
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


class Response:
    status_code = 404


@pytest.mark.parametrize(
    ("error", "words", "passes"),
    [
        (raised("ConnectError"), "broke off (words of the library)", True),
        (raised("RemoteProtocolError"), "broke off", True),
        (raised("ReadTimeoutError"), "broke off", True),
        (raised("HttpError", code=403), "refuses it", False),
        (raised("HfHubHTTPError", response=Response()), "no such file (status 404)", False),
        (raised("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 503}}), "failed (status 503)", True),
        (raised("NoCredentialsError"), "words of the library", False),
        (raised("OfflineModeIsEnabled"), "told to stay offline", False),
        (raised("Odd", code="x", status=True, response=None), "words of the library", False),
        (ImportError("install s3fs"), "a package that is not installed: install s3fs", False),
        (PermissionError("Forbidden"), "access is denied (Forbidden)", False),
        (FileNotFoundError("x"), "there is no such file", False),
        (ConnectionResetError("reset"), "broke off (reset)", True),
        (TimeoutError(), "broke off (TimeoutError)", True),
        (ValueError("Protocol not known: nowhere"), "Protocol not known: nowhere", False),
    ],
)
def test_backends_raise_what_they_like(error: Exception, words: str, passes: bool) -> None:
    found = fault_of(error)
    assert words in found.words
    assert "and more" not in found.words
    assert found.passes == passes
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    assert passes == fault_of(wrapped).passes


def test_no_network_for_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What huggingface_hub raises comes from the library below it, and is no OSError."""

    class Hub(fsspec.AbstractFileSystem):
        protocol = "hub"

        def info(self, path: str, **kwargs: object) -> dict[str, object]:
            raise raised("ConnectError")

    monkeypatch.setattr(remote, "PAUSES_S", (0.01,))
    fsspec.register_implementation("hub", Hub, clobber=True)
    dprune("embed", "hub://datasets/a/b.tar", "-o", tmp_path / "e").fails(3, "hub://datasets/a/b.tar", "broke off")


def test_waiting_looks_at_the_wish_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES_S", (60.0,))

    class Stopping(Silent):
        def stop_requested(self) -> bool:
            return time.monotonic() > begun + 0.2

    def fail() -> None:
        raise ConnectionResetError("reset")

    begun = time.monotonic()
    with pytest.raises(Interrupted):
        patiently("x://y", fail, Stopping())
    with console.TerminalMonitor(stop_after=0.2), pytest.raises(Interrupted):
        patiently("x://y", fail)
    assert time.monotonic() - begun < 2
