"""Refusals from the header, when the service has no room: at the level of bytes, and counted."""

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import structlog

from serving.api_keys import hash_key
from serving.connection.protocol import SMALL_BODY_BYTES
from serving.connection.refusals import LINES_EACH_SECOND, Refusals
from serving.telemetry.metrics import Metrics

from .conftest import jpeg
from .fake_model import FakeModel, hash_of
from .live_in_thread import Live

ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")
HEAD = b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


@contextmanager
def full_service(**settings: Any) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patches:
        fake = FakeModel().install(patches)
        live = Live(fake, **settings)
        fake.places = 0
        try:
            yield live
        finally:
            live.close()


@pytest.fixture(scope="module")
def full() -> Iterator[Live]:
    """A service without a free place."""
    with full_service(cors_origins="http://app.example") as live:
        yield live


def post(size: int, *fields: bytes, path: bytes = b"/caption") -> bytes:
    head = HEAD.replace(b"/caption", path) + b"".join(field + b"\r\n" for field in fields)
    return head + b"Content-Length: %d\r\n\r\n" % size


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in ANSWER.findall(received)]


def fields_of(received: bytes) -> dict[str, str]:
    lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def test_it_is_refused_before_its_body_is_sent(full: Live) -> None:
    received = full.send(post(1000, b"X-Request-ID: mine"))
    assert statuses(received) == [429]
    fields, body = fields_of(received), json.loads(received.partition(b"\r\n\r\n")[2])
    assert fields["retry-after"] == "3"
    assert fields["x-request-id"] == body["request_id"] == "mine"
    assert fields["content-type"] == "application/problem+json"
    assert int(fields["content-length"]) == len(received.partition(b"\r\n\r\n")[2])
    assert (body["code"], body["status"], body["retry_after_seconds"]) == ("overloaded", 429, 3)
    assert body["type"] == "problems#overloaded"


@pytest.mark.parametrize(
    "path",
    [
        *("/caption", "/captions", "/model/predict", "/v1/chat/completions"),
        *("/v2/models/captioner/infer", f"/v2/models/captioner/versions/{hash_of(1)[:12]}/infer"),
    ],
)
def test_it_says_what_the_application_says(full: Live, path: str) -> None:
    """The other way in: a target that only the application can read."""
    answers = []
    for target in (path, f"/%{ord(path[1]):02x}{path[2:]}"):
        headers = {"X-Request-ID": "a", "Origin": "http://app.example"}
        answer = httpx.post(full.url + target, headers=headers)
        assert answer.status_code == 429
        fields = dict(answer.headers)
        assert fields.pop("date")
        answers.append((answer.json(), fields))
    (early, early_fields), (late, late_fields) = answers
    assert early == late
    assert {**early_fields} == {**late_fields}


@pytest.mark.parametrize("size", [0, 1000, SMALL_BODY_BYTES])
def test_the_connection_stays_where_the_body_is_small(full: Live, size: int) -> None:
    received = full.send(
        post(size),
        b"x" * size,
        post(size) + b"x" * size,
        b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    assert statuses(received) == [429, 429, 200]
    assert b"connection: close" not in received


@pytest.mark.parametrize(
    "head",
    [
        post(SMALL_BODY_BYTES + 1),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        post(1000, b"Expect: 100-continue"),
        post(1000, b"Connection: close"),
        post(1000, b"Connection: Upgrade", b"Upgrade: h2c"),
        post(0).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_the_connection_ends_where_it_could_not_go_on(full: Live, head: bytes) -> None:
    started = time.monotonic()
    received = full.send(head)
    assert statuses(received) == [429], received
    assert fields_of(received)["connection"] == "close"
    assert b"100 Continue" not in received
    assert time.monotonic() - started < 0.9  # the service ended it


def test_who_goes_on_sending_is_told_and_cut(full: Live) -> None:
    received = full.send(post(50_000_000), *[b"x" * 65_536] * 80)
    assert statuses(received) == [429]
    started = time.monotonic()
    slow = full.send(post(1000), *[b"x"] * 40, pause=0.15)  # six seconds for forty bytes
    assert statuses(slow) == [429]
    assert time.monotonic() - started < 10


def test_a_malformed_body_gets_no_second_answer(full: Live, caplog: Any) -> None:
    received = full.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n")
    assert statuses(received) == [429]
    assert fields_of(received)["connection"] == "close"
    assert httpx.get(full.url + "/version").status_code == 200  # its loop is past that
    assert [one for one in caplog.records if one.name == "asyncio"] == []  # no failed call


def test_pipelined_requests_are_answered_in_order(full: Live) -> None:
    version = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    received = full.send(version + post(3) + b"abc" + version + post(3) + b"abc" + version)
    assert statuses(received) == [200, 429, 200, 429, 200]
    assert statuses(full.send((post(3) + b"abc") * 12)) == [429] * 12


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HEAD /caption HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /caption HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (post(3).replace(b"Host: x", b"Host: a b") + b"abc", 400),
        (post(3).replace(b"Host: x\r\n", b"") + b"abc", 400),
        (post(3, b"X-Request-Timeout: soon") + b"abc", 422),
        (post(3, path=b"/nothing") + b"abc", 404),
        (b"POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ],
)
def test_other_requests_are_answered_as_ever(full: Live, sent: bytes, status: int) -> None:
    assert statuses(full.send(sent)) == [status]


def test_a_page_of_an_allowed_origin_can_read_it(full: Live) -> None:
    fields = fields_of(full.send(post(3, b"Origin: http://app.example") + b"abc"))
    assert fields["access-control-allow-origin"] == "http://app.example"
    assert fields["access-control-expose-headers"].startswith("X-Request-ID, Retry-After, ")
    assert "access-control-allow-origin" not in fields_of(
        full.send(post(3, b"Origin: http://other.example") + b"abc")
    )


def test_every_refusal_is_counted_once(full: Live) -> None:
    requests = 'http_requests_total{method="POST",route="/caption",status="429"}'
    rejected = 'caption_rejected_total{code="overloaded"}'
    before = full.metric(requests), full.metric(rejected)
    full.send((post(3) + b"abc") * 7)
    full.send(post(50_000_000))
    assert (full.metric(requests), full.metric(rejected)) == (before[0] + 8, before[1] + 8)


def test_there_is_room_again_at_once() -> None:
    with full_service() as live:
        assert httpx.post(live.url + "/caption", content=jpeg()).status_code == 429
        live.fake.places = 1
        assert httpx.post(live.url + "/caption", content=jpeg()).status_code == 200


def test_requests_that_come_at_once_are_refused_from_the_header_beyond_the_places() -> None:
    """The event loop reads them all before any of them runs."""
    timed = 'http_request_duration_seconds_count{method="POST",route="/caption"}'
    body = jpeg()
    with full_service() as live, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=5.0))
            for _ in range(8)
        ]
        live.fake.places, live.fake.seconds = 2, 0.2
        httpx.get(live.url + "/ready")  # by then all are accepted
        live.block(0.5)
        for client in clients:
            client.sendall(post(len(body)) + body)
        answers = [client.recv(65_536) for client in clients]
        assert sorted(statuses(b"".join(answers))) == [200] * 2 + [429] * 6
        assert live.metric(timed) == 2  # the application saw no other


@pytest.mark.parametrize(("behind", "expected"), [(100_000, [200, 400]), (400_000, [])])
def test_what_comes_behind_a_malformed_request_is_forgotten_up_to_a_limit(
    behind: int, expected: list[int]
) -> None:
    body = jpeg()
    with full_service(body_limit_bytes=200_000) as live:
        live.fake.places, live.fake.seconds = 1, 0.5
        received = live.send(post(len(body)) + body, b"BAD\r\n\r\n", b"x" * behind, pause=0.05)
        assert statuses(received) == expected


def test_without_a_key_nothing_is_told_of_the_load() -> None:
    digest = "sha256:" + hashlib.sha256(b"a-key").hexdigest()
    assert hash_key(digest) == hash_key("a-key")
    with full_service(api_keys=digest) as live:
        for field in (b"X-API-Key: wrong", b"Authorization: Bearer wrong", b"A: b"):
            received = live.send(post(3, field) + b"abc")
            assert statuses(received) == [401]
            assert fields_of(received)["www-authenticate"] == 'Bearer realm="captioner"'
            assert b"retry" not in received.lower()
        for field in (b"X-API-Key: a-key", b"Authorization: bearer a-key"):
            assert statuses(live.send(post(3, field) + b"abc")) == [429]


def test_the_log_sums_up_and_has_single_lines_up_to_a_limit() -> None:
    refusals = Refusals(Metrics())
    with structlog.testing.capture_logs() as lines:
        for _ in range(300):
            refusals.add("overloaded", "/caption")
        for number in range(LINES_EACH_SECOND + 5):
            refusals.add_single("bad_request", client=None, request_id=str(number))
        refusals.tick()  # within the first second
    assert [line["id"] for line in lines] == [str(number) for number in range(LINES_EACH_SECOND)]
    with structlog.testing.capture_logs() as lines:
        refusals.sum_up()
        refusals.sum_up()
    (line,) = lines
    assert (line["number"], line["codes"]) == (305, {"overloaded": 300, "bad_request": 5})
