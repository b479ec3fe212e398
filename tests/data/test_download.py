"""Downloads from a server on this machine: resumed, compared, and told apart from error pages."""

import hashlib
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from captioner.data import download as module
from captioner.data.download import WebFile, fetch, part_of
from captioner.errors import DataError, OptionError, StorageError

CONTENT = b"PK\x03\x04" + np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT, in the ways of different servers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.knows_ranges = True
        self.says_length = True
        self.breaks_off_after: list[int] = []  # bytes, for the next answers
        self.asked: list[str] = []  # the Range of each request

    def address(self, name: str = "file") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/page":
            content = b"<html>This page has moved.</html>"
        start = int(wanted[6:-1]) if wanted and server.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + server.breaks_off_after.pop(0) if server.breaks_off_after else None
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.001)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with Server() as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def web_file(*addresses: str, sha256: bool = True) -> WebFile:
    return WebFile(
        name="file.zip",
        addresses=addresses,
        size=len(CONTENT) if sha256 else 1_000_000,
        sha256=hashlib.sha256(CONTENT).hexdigest() if sha256 else "",
        begins_with=b"PK\x03\x04",
    )


def get(file: WebFile, folder: Path) -> bytes:
    path = fetch(file, folder, show_progress=False)
    assert path == folder / "file.zip"
    assert list(folder.iterdir()) == [path]
    return path.read_bytes()


@pytest.mark.parametrize("sha256", [True, False])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_arrives_whole_and_is_fetched_once(tmp_path, server, sha256, says_length):
    server.says_length = says_length
    for _ in range(2):
        assert get(web_file(server.address(), sha256=sha256), tmp_path) == CONTENT
    assert server.asked == [""]


@pytest.mark.parametrize("sha256", [True, False])
def test_a_download_goes_on_where_an_earlier_one_stopped(tmp_path, server, sha256):
    part_of(tmp_path / "file.zip").write_bytes(CONTENT[:100_000])
    assert get(web_file(server.address(), sha256=sha256), tmp_path) == CONTENT
    assert server.asked == ["bytes=100000-"]


def test_a_connection_that_breaks_off_is_taken_up_again(tmp_path, server):
    server.breaks_off_after = [100_000, 50_000, 0, 0, 1]
    assert get(web_file(server.address()), tmp_path) == CONTENT
    assert server.asked[0] == ""
    assert server.asked[1] == "bytes=100000-"
    assert server.asked[2:5] == ["bytes=150000-"] * 3
    assert server.asked[5] == "bytes=150001-"


def test_a_server_that_ignores_ranges_sends_it_all_again(tmp_path, server):
    server.knows_ranges = False
    part_of(tmp_path / "file.zip").write_bytes(b"x" * 100_000)
    assert get(web_file(server.address()), tmp_path) == CONTENT


@pytest.mark.parametrize("sha256", [True, False])
def test_a_part_that_is_complete_already_is_taken(tmp_path, server, sha256):
    part_of(tmp_path / "file.zip").write_bytes(CONTENT)
    assert get(web_file(server.address(), sha256=sha256), tmp_path) == CONTENT


@pytest.mark.parametrize("sha256", [True, False])
def test_a_part_that_is_too_long_is_begun_again(tmp_path, server, sha256):
    part_of(tmp_path / "file.zip").write_bytes(CONTENT + b"x")
    assert get(web_file(server.address(), sha256=sha256), tmp_path) == CONTENT


def test_a_wrong_checksum_removes_the_file(tmp_path, server):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"file\.zip has the SHA-256 .*published is .*run the same"):
        get(web_file(server.address()), tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert get(web_file(server.address()), tmp_path) == CONTENT


def test_a_wrong_size_is_noticed_before_the_bytes(tmp_path, server):
    server.content = CONTENT[:-1]
    with pytest.raises(
        DataError, match="the server's file has 300,003 bytes, 300,004 are expected"
    ):
        get(web_file(server.address()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gone", "page"])
def test_a_mirror_takes_over(tmp_path, server, name):
    file = web_file(server.address(name), server.address(), sha256=False)
    assert get(file, tmp_path) == CONTENT
    assert server.asked == ["", ""]


def test_when_no_address_helps_each_reason_is_given_in_one_line(tmp_path, server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        file = web_file(server.address("gone"), server.address("page"), nobody, sha256=False)
        with pytest.raises(DataError) as caught:
            get(file, tmp_path)
    reasons = r".*/gone: the server answers 404.*/page: the server sends something else.*refused"
    assert re.search(reasons, str(caught.value))
    assert "check the network and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_the_bytes_that_are_there_are_kept(tmp_path, server):
    server.shutdown()
    server.server_close()
    part = part_of(tmp_path / "file.zip")
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="could not be fetched"):
        get(web_file(server.address()), tmp_path)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_server_that_breaks_off_for_ever_is_given_up(tmp_path, server):
    server.breaks_off_after = [1000] + [0] * 50
    with pytest.raises(DataError, match="could not be fetched"):
        get(web_file(server.address()), tmp_path)
    assert len(server.asked) == 1 + module.TRIES - 1
    assert part_of(tmp_path / "file.zip").stat().st_size == 1000


def test_a_folder_that_cannot_be_written_is_named(tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file\.zip\.part cannot be written"):
        get(web_file(server.address()), tmp_path / "file" / "folder")


def test_progress_is_told_in_megabytes(tmp_path, server, capsys):
    fetch(web_file(server.address()), tmp_path)
    assert "file.zip: 0/0 MB" in capsys.readouterr().err


def test_a_proxy_that_cannot_be_used_is_named(tmp_path, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    elsewhere = WebFile(name="file", addresses=("http://files.example/",), size=4)
    monkeypatch.setenv("ALL_PROXY", "socks5://u:secret@127.0.0.1:1")
    with pytest.raises(OptionError, match=r"^ALL_PROXY is socks5://127\.0\.0\.1:1; SOCKS needs"):
        fetch(elsewhere, tmp_path, show_progress=False)
    assert fetch(web_file(server.address()), tmp_path, show_progress=False).read_bytes() == CONTENT
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://u:secret@127.0.0.1:{port}")
    named = rf"through the proxy http://127\.0\.0\.1:{port} that HTTP_PROXY names\)"
    with pytest.raises(DataError, match=named):
        fetch(elsewhere, tmp_path / "new", show_progress=False)
