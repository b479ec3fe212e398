"""The service at the level of bytes: malformed, slow, endless and abandoned requests.

`requests/NAME.request` is what a client sends and `NAME.expected` the status of each answer and the
code of the last one's problem.
"""

import json
import re
import signal
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httptools
import httpx
import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.connection.protocol import LimitedProtocol
from serving.connection.request_parser import RequestParser
from serving.origins import cors_headers
from serving.server import DrainingServer

from .conftest import Running, jpeg, running

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).parent / "requests"
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z]")
POST = b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


def connect(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    received = b""
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("*.request")))
def test_whatever_is_sent_gets_a_sane_answer(live: Running, name: str) -> None:
    statuses, code = [], None
    for word in (CASES / f"{name}.expected").read_text().split():
        if word.isdigit():
            statuses.append(word)
        else:
            code = word
    with connect(live) as connection:
        connection.sendall((CASES / f"{name}.request").read_bytes())
        received = read_to_end(connection)
    assert [found.decode() for found in ANSWER.findall(received)] == statuses, received
    if code is not None:
        assert b"application/problem+json" in received
        assert re.search(rb'"code": ?"' + code.encode() + b'"', received), received
    assert b"Traceback" not in received
    assert b"x-request-id" in received
    assert live.status("/health/live") == 200


def test_a_slow_header_is_cut(live: Running) -> None:
    with connect(live) as connection:
        started = time.monotonic()
        received = b""
        connection.settimeout(0.4)
        for byte in b"GET /version HTTP/1.1\r\nHost: never-ending":
            try:
                connection.sendall(bytes([byte]))
                received = connection.recv(65_536)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 1.5 < time.monotonic() - started < 10
    assert b"408" in received
    assert b"receive_timeout" in received


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"Content-Length: 1000\r\n\r\n", b"408"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"408"),
        (POST + OFFER + b"Content-Length: 1000\r\n\r\n", b"408"),
        (b"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"200"),
    ],
)
def test_a_slow_body_is_cut(live: Running, head: bytes, status: bytes) -> None:
    with connect(live) as connection:
        started = time.monotonic()
        connection.sendall(head + b"abc")
        received = read_to_end(connection)
        assert time.monotonic() - started < 10
    assert received.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("offer", [b"", OFFER])
def test_endless_chunks_are_cut_at_the_limit(live: Running, offer: bytes) -> None:
    with connect(live) as connection:
        connection.sendall(POST + offer + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 30:
                connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
        assert sent > 5 * 2**20
    assert 'caption_rejected_total{code="body_too_large"}' in httpx.get(live.url + "/metrics").text


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("start", [b"1;", b"1\r\na\r\n0\r\nX: "])
def test_endless_extensions_and_trailers_are_cut(live: Running, start: bytes, offer: bytes) -> None:
    with connect(live) as connection:
        connection.sendall(POST + offer + b"Transfer-Encoding: chunked\r\n\r\n" + start)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 30:
                connection.sendall(b"x" * 65_536)


def test_two_hundred_slow_connections_are_dropped_and_others_served_meanwhile(
    live: Running,
) -> None:
    half = POST + b"Content-Length: 9\r\n\r\na"  # 100 of them, and the queue has 64 places
    starts = [b"", b"GET / HTTP/1.1\r\nX: ", half, half]
    connections = [connect(live) for _ in range(200)]
    try:
        for index, connection in enumerate(connections):
            connection.sendall(starts[index % len(starts)])
        assert httpx.post(live.url + "/caption", content=jpeg(), timeout=30).status_code == 200
        started = time.monotonic()
        for connection in connections:
            read_to_end(connection)
        assert time.monotonic() - started < 20
    finally:
        for connection in connections:
            connection.close()


def test_who_reads_no_answers_is_cut(live: Running) -> None:
    asked = 16
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 20:
                time.sleep(0.2)
                connection.sendall(b"\r\n")
        assert len(ANSWER.findall(read_to_end(connection))) < asked


def test_an_idle_connection_is_closed(live: Running) -> None:
    with connect(live) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        assert connection.recv(65_536) == b""
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("offer", [b"Connection: close\r\n", OFFER])
def test_a_body_is_asked_for_only_if_it_would_be_read(live: Running, offer: bytes) -> None:
    photo = jpeg()
    head = POST + offer + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connect(live) as connection:
        connection.sendall(head % len(photo))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(photo)
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


def test_http_1_0_is_never_told_to_continue(live: Running) -> None:
    photo = jpeg()
    head = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n"
    with connect(live) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(photo))
        time.sleep(0.2)  # in which it would be told
        connection.sendall(photo)
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 200"), received


@pytest.mark.parametrize("offer", [OFFER, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_is_read_though_another_protocol_is_offered(
    live: Running, offer: bytes, is_chunked: bool
) -> None:
    photo = jpeg((400, 300))
    expected = httpx.post(live.url + "/caption", content=photo, timeout=30).json()["captions"]
    framing, body = b"Content-Length: %d" % len(photo), photo
    if is_chunked:
        parts = [photo[at : at + 5000] for at in range(0, len(photo), 5000)]
        framing = b"Transfer-Encoding: chunked"
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        body += b"0\r\nX-Request-ID: trailer\r\n\r\n"
    with connect(live) as connection:
        connection.sendall(POST + offer + framing + b"\r\n\r\n" + body[:100])
        time.sleep(0.05)
        connection.sendall(body[100:])
        head, _, answer = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    assert b"connection: close" in head
    assert b"x-request-id: trailer" not in head
    assert json.loads(answer)["captions"] == expected


class Heard:
    """What a parser tells of one request, as far as the connection listens to it."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ends = 0
        self.parser: Any = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += not self.parser.should_upgrade()

    def feed(self, *packets: bytes) -> tuple[bytes, int, bool]:
        """Return the body, how often the request ended, and whether it was well-formed."""
        try:
            for packet in packets:
                self.parser.feed_data(packet)
        except httptools.HttpParserError:
            return self.body, self.ends, False
        return self.body, self.ends, True


@pytest.mark.parametrize(
    "rest",
    [
        b"\r\n",
        b"Content-Length: 5 \r\n\r\nabcde",
        b"Content-Length: 5\r\n\r\nabc",
        b"Transfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX: 1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_request_with_an_offer_is_parsed_as_one_without(rest: bytes) -> None:
    """Wherever the packets end, and whatever comes behind it."""
    expected = Heard().feed(POST + rest)
    sent = POST + OFFER + rest
    behind = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx" if expected[1] else b""
    for cut in range(len(sent) + 1):
        for packets in (
            (sent[:cut], sent[cut:] + behind),
            (sent[:cut], sent[cut:], behind[:9], behind[9:]),
        ):
            heard = Heard()
            heard.parser = RequestParser(heard.parser, heard)  # type: ignore[arg-type]
            assert heard.feed(*packets) == expected, packets


def test_an_early_refusal_is_read_by_a_client_that_is_still_sending(live: Running) -> None:
    with connect(live) as connection:
        connection.sendall(POST + b"Content-Length: 50000000\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"x" * 65_536)
        except ConnectionError:
            pass
        assert b"body_too_large" in read_to_end(connection)


def test_clients_that_hang_up_are_counted_and_leave_nothing_behind(live: Running) -> None:
    def hung_up() -> float:
        text = httpx.get(live.url + "/metrics").text
        return float(re.search(r"^caption_cancelled_total (\S+)", text, re.MULTILINE)[1])

    before = hung_up()
    for _ in range(20):
        with connect(live) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\nhalf")
    live.wait_for(lambda: True if hung_up() >= before + 20 else None)
    answer = httpx.post(live.url + "/caption", content=jpeg(), timeout=30)
    assert answer.status_code == 200


def test_nothing_that_clients_send_forges_a_line_in_the_log(live: Running) -> None:
    path = "/%0a%1b[31m%e2%80%a8{'event':'forged'}"
    httpx.get(live.url + path, headers={"User-Agent": "a\tb"})
    found = live.wait_for(
        lambda: next((one for one in live.events("request") if "forged" in one["path"]), None)
    )
    assert found["path"].startswith("/\n\x1b[31m")
    assert {"request_id", "method", "route", "status", "ms", "client"} <= set(found)


ORIGIN = b"Origin: http://app.example\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /version HTTP/1.1\r\n" + ORIGIN + b"\r\n", b"400"),
        (b"GET /version HTTP/1.1\r\nHost: x\r\n" + ORIGIN + b"Bad header\r\n\r\n", b"400"),
        (b"\x16\x03\x01 no HTTP at all\r\n\r\n", b"400"),
        (b"GET /version HTTP/1.1\r\nHost: x\r\n" + ORIGIN + b"X: 1", b"408"),
        (POST + ORIGIN + b"Content-Length: 9\r\n\r\nabc", b"408"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + ORIGIN + b"X: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (POST + ORIGIN + b"Content-Length: 50000000\r\n\r\n", b"413"),
    ],
)
def test_a_page_can_read_what_the_connection_answers(
    live: Running, sent: bytes, status: bytes
) -> None:
    with connect(live) as connection:
        connection.sendall(sent)
        head = read_to_end(connection).partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 " + status)
    assert b"\r\naccess-control-allow-origin: http://app.example" in head
    assert b"\r\naccess-control-expose-headers: x-request-id, retry-after" in head


def test_a_page_of_another_origin_cannot(live: Running) -> None:
    with connect(live) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nOrigin: http://other.example\r\n\r\n")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"access-control" not in received.lower()


def test_without_its_origin_any_page_may_read_a_refusal_where_several_may() -> None:
    several = ("http://a.example", "http://b.example")
    (name, value), *_ = cors_headers([], several)
    assert (name, value) == (b"access-control-allow-origin", b"*")
    assert (
        dict(cors_headers([(b"origin", b"http://b.example")], several))[name] == several[1].encode()
    )
    assert cors_headers([(b"origin", b"http://c.example")], several) == []
    assert cors_headers([(b"origin", b"http://a.example")], ()) == []


def test_uvicorn_has_what_is_overridden_and_its_version_is_bounded() -> None:
    for ours, theirs in ((LimitedProtocol, HttpToolsProtocol), (DrainingServer, uvicorn.Server)):
        public = [name for name in vars(ours) if not name.startswith("_")]
        assert len([name for name in public if hasattr(theirs, name)]) >= 2
    for name in ("send_400_response", "_unset_keepalive_if_required"):
        assert hasattr(HttpToolsProtocol, name), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = map(Requirement, project["optional-dependencies"]["serving"])
    (needed,) = [one for one in declared if one.name == "uvicorn"]
    assert any(bound.operator == "<" for bound in needed.specifier)
    assert needed.specifier.contains(uvicorn.__version__)


@pytest.fixture
def small(tiny_checkpoint: Path) -> Iterator[Running]:
    with running(
        *("--checkpoint", str(tiny_checkpoint), "--decode-workers", "1"),
        *("--connection-limit", "8", "--keep-alive-seconds", "60"),
        *("--cors-origins", "http://app.example"),
    ) as service:
        service.wait_until_ready()
        yield service


def test_a_full_house_drops_who_has_waited_longest(small: Running) -> None:
    waiting = [connect(small) for _ in range(8)]
    try:
        time.sleep(0.2)
        assert httpx.get(small.url + "/version").status_code == 200
        assert read_to_end(waiting[0]) == b""
        busy = [connect(small) for _ in range(8)]
        for connection in busy:
            connection.sendall(POST + b"Content-Length: 9\r\n\r\na")
        time.sleep(0.5)
        with connect(small) as refused:
            received = read_to_end(refused)
        assert b"503" in received
        assert b"too_many_connections" in received
        assert b"access-control-allow-origin: http://app.example" in received
        for connection in busy:
            connection.close()
    finally:
        for connection in waiting:
            connection.close()
    assert small.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_connected_before_the_end_is_told_of_it(tiny_checkpoint: Path, workers: str) -> None:
    def nobody_listens() -> bool | None:
        try:
            connect(service).close()
        except ConnectionError:
            return True
        return None

    with running("--checkpoint", str(tiny_checkpoint), "--workers", workers) as service:
        service.wait_until_ready()
        with connect(service) as connection:
            time.sleep(0.2)  # a worker takes it
            service.process.send_signal(signal.SIGTERM)
            end = time.monotonic() + 30
            while not nobody_listens():
                assert time.monotonic() < end
                time.sleep(0.02)
            connection.sendall(POST + b"Content-Length: 3\r\n\r\nabc")
            received = read_to_end(connection)
        assert service.wait() == 0
    assert received.startswith(b"HTTP/1.1 503"), received
    assert b"not_ready" in received
