"""The client against a service on a real socket that answers as each test wants."""

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from captioner.cli import main
from captioner.client import (
    AsyncCaptionClient,
    CaptionClient,
    CaptionResponse,
    Patience,
    RequestOptions,
)
from captioner.client.retries import CaptionRequest
from captioner.errors import CaptionerError, ImageError, OptionError, ServiceError
from captioner.proxies import Proxy, proxy_for
from captioner.search_config import SearchConfig

_path = Path(__file__).parent / "serving" / "fake_service.py"
_spec = importlib.util.spec_from_file_location("fake_service", _path)
fake_service = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_service)

TEXT = "a dog runs through the grass"


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    service = fake_service.FakeService()
    yield service
    service.close()


@pytest.fixture
def service(running: Any) -> Any:
    running.reset()
    return running


class Both:
    """The two clients behind one face: every test that takes it is run with each of them."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def call(self, method: str, url: str, *words: Any, **options: Any) -> Any:
        made = {name: options.pop(name) for name in ("api_key", "patience") if name in options}
        if not self.is_async:
            with CaptionClient(url, **made) as client:
                return getattr(client, method)(*words, **options)

        async def ask() -> Any:
            async with AsyncCaptionClient(url, **made) as client:
                return await getattr(client, method)(*words, **options)

        return asyncio.run(ask())

    def caption(self, *words: Any, **options: Any) -> CaptionResponse:
        return self.call("caption", *words, **options)

    def caption_many(self, *words: Any, **options: Any) -> list[CaptionResponse | CaptionerError]:
        return self.call("caption_many", *words, **options)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def texts(outcomes: list[CaptionResponse | CaptionerError]) -> list[str]:
    return [
        one.caption if isinstance(one, CaptionResponse) else type(one).__name__ for one in outcomes
    ]


def test_a_path_and_bytes_get_typed_captions(
    client: Both, service: Any, photographs: list[Path]
) -> None:
    answer = client.caption(service.url, photographs[0], num_captions=2, attention=True)
    assert answer.caption == TEXT
    assert [caption.text for caption in answer.captions] == [TEXT, f"{TEXT} again"]
    best = answer.captions[0]
    assert best.tokens == tuple(fake_service.TOKENS)
    assert (best.log_prob, best.probability) == (-2.5, 0.082085)
    assert best.attention is not None
    assert best.attention[1][0] == [0.0, 1.0, 0.0]
    assert best.shares == {"sentinel": tuple(word / 6 for word in range(6))}
    assert (best.confidence, best.end_probability) == (0.62, 0.8)
    assert best.word_probabilities == (0.9, 0.6, 0.3, 0.08, 0.95, 0.7)
    assert best.attribute_attention is not None
    assert best.attribute_attention[1] == [0.6, 0.1]
    assert answer.attributes == (("dog", 0.83), ("grass", 0.1))
    assert (answer.width, answer.height, answer.format) == (60, 40, "JPEG")
    assert answer.seen == (0.0, 0.0, 1.0, 1.0)
    assert answer.timing_ms["total"] == 6.5

    data = photographs[1].read_bytes()
    again = client.caption(service.url, data, beam_size=5, max_length=9)
    assert again.captions[0].attention is again.captions[0].attribute_attention is None
    assert again.attributes == ()
    assert again.seen is None
    by_path, by_bytes = service.asked
    assert by_path["body"] == photographs[0].read_bytes()
    assert by_path["query"] == {"num_captions": "2", "attention": "true"}
    assert by_bytes["body"] == data
    assert by_bytes["query"] == {"beam_size": "5", "num_captions": "1", "max_length": "9"}
    assert "authorization" not in by_path["headers"]

    client.caption(service.url, data, include=["dog", "grass"], sample=False, top_p=0.5, seed=None)
    assert service.asked[-1]["query"] == {
        "num_captions": "1",
        "include": "dog,grass",
        "sample": "false",
        "top_p": "0.5",
    }


def test_a_service_behind_a_prefix_is_found(service: Any) -> None:
    with CaptionClient(f"{service.url}/somewhere/") as client:
        with pytest.raises(ServiceError, match=r"/somewhere/caption answered with status 404"):
            client.caption(b"x")


def test_a_busy_service_is_asked_again_after_the_time_it_names(client: Both, service: Any) -> None:
    service.refuse(429, "overloaded", "Busy", "the queue is full", retry_after="1")
    service.refuse(503, "not_ready", "Starting", "the model loads", retry_after="0")
    started = time.monotonic()
    assert client.caption(service.url, b"x").caption == TEXT
    assert 1.0 <= time.monotonic() - started < 20.0
    assert len(service.asked) == 3


def test_patience_has_an_end(client: Both, service: Any) -> None:
    for _ in range(3):
        service.refuse(429, "overloaded", "Busy", "the queue is full", retry_after="0")
    with pytest.raises(ServiceError, match=r"^the image: busy: the queue is full \(overloaded\)$"):
        client.caption(service.url, b"x", patience=Patience(attempts=3))
    assert len(service.asked) == 3

    service.refuse(429, "rate_limited", "Too many", "wait an hour", retry_after="3600")
    with pytest.raises(ServiceError) as caught:
        client.caption(service.url, b"x")
    assert len(service.asked) == 4
    assert caught.value.retry_after_seconds == 3600


def test_a_wait_may_be_a_date_or_left_to_the_client() -> None:
    request = httpx.Request("POST", "http://service/caption")

    def wait(retry_after: str | None, *, times: int = 1) -> float:
        asking = CaptionRequest("dog.jpg", Patience())
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        told = fake_service.problem(429, "overloaded", "Busy", "")
        for _ in range(times):
            found = asking.after(httpx.Response(429, headers=headers, json=told, request=request))
        assert isinstance(found, float)
        return found

    assert 8 < wait(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert 0.3 < wait(None) < 0.7
    assert 1.4 < wait("soon", times=3) < 2.6


def test_an_error_carries_what_the_service_said(
    client: Both, service: Any, photographs: list[Path]
) -> None:
    service.refuse(422, "corrupt_image", "The image cannot be decoded", "it ends\n\x1b[31m early")
    with pytest.raises(ServiceError) as caught:
        client.caption(service.url, photographs[0])
    error = caught.value
    assert str(error) == (
        f"{photographs[0]}: the image cannot be decoded: it ends [31m early (corrupt_image)"
    )
    assert (error.code, error.status, error.request_id) == ("corrupt_image", 422, "r-1")
    assert error.detail == "it ends [31m early"
    assert error.retry_after_seconds is None
    assert len(service.asked) == 1


def test_a_key_is_sent_and_its_absence_is_an_error(client: Both, service: Any) -> None:
    service.key = "secret"
    assert client.caption(service.url, b"x", api_key="secret").caption == TEXT
    with pytest.raises(ServiceError) as caught:
        client.caption(service.url, b"x", api_key="wrong")
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b'{"captions": []}'), (200, b"[1]"), (500, b"oops"), (302, b"")],
)
def test_what_is_no_caption_service_is_said_so(service: Any, status: int, body: bytes) -> None:
    service.script.append((status, {"location": "http://elsewhere/"}, body))
    with CaptionClient(service.url) as client:
        with pytest.raises(ServiceError, match=rf"answered with status {status}, but not") as one:
            client.caption(b"x")
    assert one.value.code == "unexpected_answer"


def test_many_photographs_keep_their_order_whatever_happens_to_some(
    client: Both, service: Any, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    service.delay_seconds = 0.05
    missing = photographs[0].with_name("missing.jpg")
    waiting = [photographs[0], missing, *photographs * 4]
    outcomes = client.caption_many(service.url, waiting, concurrency=4)
    assert texts(outcomes) == [TEXT, "ImageError", *[TEXT] * 16]
    assert str(outcomes[1]) == f"{missing}: No such file or directory; check the path"
    assert 2 <= service.most_at_once <= 4
    assert "captioning: 18/18 photographs" in capsys.readouterr().err
    assert client.caption_many(service.url, [], progress=False) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("single", ["dog.jpg", Path("dog.jpg"), b"..."])
def test_a_single_photograph_instead_of_a_list_is_refused(
    client: Both, service: Any, single: Any
) -> None:
    with pytest.raises(OptionError, match=r"dog\.jpg|\.\.\.") as refused:
        client.caption_many(service.url, single)
    assert str(refused.value).endswith("; give a list, [photograph] for a single one")
    with CaptionClient(service.url) as sync, pytest.raises(OptionError, match="give a list"):
        next(sync.caption_each(single))
    assert not service.asked


def test_a_photograph_that_is_refused_costs_the_others_nothing(client: Both, service: Any) -> None:
    service.refuse(422, "corrupt_image", "Broken", "")
    service.refuse(413, "body_too_large", "Large", "")
    outcomes = client.caption_many(service.url, [b"x"] * 5, concurrency=1, progress=False)
    assert texts(outcomes) == ["ServiceError", "ServiceError", TEXT, TEXT, TEXT]


def test_what_every_photograph_would_meet_ends_it_at_once(client: Both, service: Any) -> None:
    service.key = "secret"
    with pytest.raises(ServiceError) as caught:
        client.caption_many(service.url, [b"x"] * 500, concurrency=4, progress=False)
    assert caught.value.code == "unauthorized"
    assert len(service.asked) < 100


def test_a_key_that_ends_on_the_way_does_not_lose_what_was_captioned(
    client: Both, service: Any
) -> None:
    service.script.append((200, {}, fake_service.answer(1)))
    service.refuse(401, "unauthorized", "No", "")
    outcomes = client.caption_many(service.url, [b"x"] * 3, concurrency=1, progress=False)
    assert texts(outcomes) == [TEXT, "ServiceError", TEXT]


def test_a_service_that_is_not_there_is_named(client: Both) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ServiceError, match=rf"{url}/caption cannot be reached: .*check the") as one:
        client.caption(url, b"x")
    assert one.value.code == "unreachable"


def test_a_service_that_never_answers_is_left(client: Both) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"no answer in 0\.3 s"):
            client.caption(url, b"x", patience=Patience(timeout_seconds=0.3))


@pytest.mark.parametrize("losses", [1, 2])
def test_a_connection_that_breaks_is_tried_once_more(client: Both, losses: int) -> None:
    body = json.dumps(fake_service.answer(1)).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for number in range(2):
                with listening.accept()[0] as connection:
                    connection.recv(65536)
                    if number >= losses:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if losses == 1:
            assert client.caption(url, b"").caption == TEXT
        else:
            with pytest.raises(ServiceError, match="cannot be reached"):
                client.caption(url, b"")
        thread.join(10)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://[", "", None])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="give one like http://localhost:8000"):
        CaptionClient(url)


def test_the_password_of_an_address_is_not_shown(client: Both, service: Any) -> None:
    where = service.url.removeprefix("http://")
    with pytest.raises(ServiceError) as elsewhere:
        client.caption(f"http://user:secret@{where}/a@b", b"x")
    assert f"http://{where}/a@b/caption answered with status 404, but" in str(elsewhere.value)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        where = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ServiceError) as unreachable:
        client.caption(f"http://user:secret@{where}", b"x")
    assert f"http://{where}/caption cannot be reached" in str(unreachable.value)
    with pytest.raises(OptionError) as none:
        CaptionClient("http://user:se/cret@127.0.0.1:8000")
    for caught in (elsewhere, unreachable, none):
        assert "cret" not in str(caught.value)


def test_a_key_that_is_none_is_refused_without_showing_it() -> None:
    with pytest.raises(OptionError) as caught:
        CaptionClient("http://localhost", "schlüssel")
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"longest_wait_seconds": 0}, {"timeout_seconds": -1}]
)
def test_patience_is_checked(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Patience(**options)


def test_concurrency_is_checked(client: Both, service: Any) -> None:
    with pytest.raises(OptionError, match="concurrency is 0"):
        client.caption_many(service.url, [b"x"], concurrency=0)


def test_the_client_needs_no_torch_and_httpx_only_when_it_is_made() -> None:
    code = (
        "import captioner.client, sys; print([m for m in ('torch', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_is_an_unreadable_photograph(service: Any, tmp_path: Path) -> None:
    with CaptionClient(service.url) as client:
        with pytest.raises(ImageError, match="Is a directory"):
            client.caption(tmp_path)


def test_a_photograph_s_name_may_begin_with_a_tilde(
    client: Both, service: Any, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs[0].rename(photographs[0].with_name("~dog.jpg"))
    monkeypatch.chdir(photographs[0].parent)
    assert client.caption(service.url, "~dog.jpg").caption == TEXT


def test_the_command_prints_what_it_prints_without_a_service(
    service: Any, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["caption", *map(str, photographs), "--server", service.url]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"{path}\t{TEXT}" for path in photographs]
    assert printed.err == ""
    assert main([*words, "--num-captions", "2", "--beam-size", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{photographs[0]}\t{TEXT}\t-2.500",
        f"{photographs[0]}\t{TEXT} again\t-3.500",
    ]
    assert main([*words[:2], *words[-2:], "--json"]) == 0
    entry = fake_service.caption(0, fake_service.TOKENS, attention=False)
    assert json.loads(capsys.readouterr().out) == [
        {"image": str(photographs[0]), "captions": [entry]}
    ]


def test_the_command_names_and_skips_what_the_service_refuses(
    service: Any, photographs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    service.refuse(422, "corrupt_image", "The image cannot be decoded", "no scan")
    words = ["caption", *map(str, photographs[:1]), "missing.jpg", "--server", service.url]
    assert main([*words, "--json"]) == 1
    printed = capsys.readouterr()
    refused = f"{photographs[0]}: the image cannot be decoded: no scan (corrupt_image)"
    assert f"skipped: {refused}" in printed.err.splitlines()
    assert "skipped: missing.jpg: there is no such file; check the path" in printed.err
    assert {"image": str(photographs[0]), "error": refused} in json.loads(printed.out)


def test_the_command_ends_with_one_line_where_nothing_can_be_done(
    service: Any,
    photographs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["caption", *map(str, photographs)]
    service.key = "secret"
    monkeypatch.delenv("CAPTIONER_API_KEY", raising=False)
    assert main([*words, "--server", service.url]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("a valid key is needed: Send the key. (unauthorized)\n")
    assert printed.err.count("\n") == 1
    monkeypatch.setenv("CAPTIONER_API_KEY", "secret")
    assert main([*words, "--server", service.url]) == 0
    capsys.readouterr()
    assert main([*words, "--server", service.url, "--device", "cpu", "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: --device, --threads with --server: ")
    assert main([*words, "--server", "localhost:8000"]) == 2
    assert "'localhost:8000'; give one like" in capsys.readouterr().err


def test_who_wants_no_more_captions_waits_for_none(service: Any) -> None:
    service.script.append((200, {}, fake_service.answer(1)))
    for _ in range(8):
        service.refuse(429, "overloaded", "Busy", "", retry_after="30")
    started = time.monotonic()
    with CaptionClient(service.url) as client:
        outcomes = client.caption_each([b"x"] * 9, concurrency=1)  # the first gets the 200
        assert isinstance(next(outcomes), CaptionResponse)
        outcomes.close()
    assert time.monotonic() - started < 15.0


PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*PROXY_VARIABLES, "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


BROKEN = [
    ("ALL_PROXY", "socks5://127.0.0.1:1"),
    ("all_proxy", "socks5h://u:secret@127.0.0.1:1"),
    ("NO_PROXY", "fd00::/8"),
    ("NO_PROXY", "[::1]"),
    ("HTTP_PROXY", "ftp://x"),
    ("http_proxy", "http://127.0.0.1:1"),
    ("SSL_CERT_FILE", "/gone.pem"),
    ("SSL_CERT_DIR", "/gone"),
]


@pytest.mark.parametrize(("variable", "value"), BROKEN)
def test_this_machine_is_reached_whatever_proxies_are_named(
    client: Both, service: Any, no_proxies: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    no_proxies.setenv(variable, value)
    assert client.caption(service.url, b"x").caption == TEXT
    assert client.caption(service.url.replace("127.0.0.1", "localhost"), b"x").caption == TEXT


@pytest.mark.parametrize(
    ("url", "variable", "value", "message"),
    [
        ("http://a.b", "ALL_PROXY", "socks5://u:secret@c:1", "ALL_PROXY is socks5://c:1; SOCKS"),
        ("https://a.b", "all_proxy", "socks4://c", "all_proxy is socks4://c; give a proxy like"),
        ("http://a.b", "HTTP_PROXY", "ftp://u:secret@x", "HTTP_PROXY is ftp://x; give a proxy"),
        ("http://a.b", "http_proxy", "u:secret@c:port", "http_proxy is http://c:port; give a pr"),
        ("https://a.b", "HTTPS_PROXY", "http://", "HTTPS_PROXY is http://; give a proxy like"),
        ("https://a.b", "SSL_CERT_FILE", "/gone.pem", "SSL_CERT_FILE is /gone.pem, which is not"),
        ("https://a.b", "SSL_CERT_DIR", "/gone", "SSL_CERT_DIR is /gone, which is not there"),
        ("https://a.b", "SSL_CERT_FILE", __file__, "which cannot be read as certificates"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_named(
    client: Both, no_proxies: pytest.MonkeyPatch, url: str, variable: str, value: str, message: str
) -> None:
    no_proxies.setenv(variable, value)
    with pytest.raises(OptionError) as caught:
        client.caption(url, b"x")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_does_not_answer_is_named(
    client: Both, no_proxies: pytest.MonkeyPatch, variable: str
) -> None:
    port = unused_port()
    no_proxies.setenv(variable, f"http://u:secret@127.0.0.1:{port}")
    with pytest.raises(ServiceError) as caught:
        client.caption("http://service.example", b"x")
    told = f"through the proxy http://127.0.0.1:{port} that {variable} names; check the address"
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_answers_instead_is_named(
    client: Both, service: Any, no_proxies: pytest.MonkeyPatch
) -> None:
    no_proxies.setenv("HTTP_PROXY", service.url)
    service.script.append((502, {}, b"<html>"))
    with pytest.raises(ServiceError, match=f"status 502, through the proxy {service.url} that"):
        client.caption("http://service.example", b"x")


@pytest.mark.parametrize(
    ("listed", "url", "is_exempt"),
    [
        ("a.b", "http://a.b/", True),
        (".b, other", "http://a.b/", True),
        ("*.b", "http://a.b/", True),
        ("a.b:81", "http://a.b:81/", True),
        ("a.b:81", "http://a.b/", False),
        ("b", "http://ab/", False),
        ("*", "https://a.b/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("fd00::/8", "http://[fd12::1]/", True),
        ("[fd12::1]", "http://[fd12::1]/", True),
        ("fd00::/8,[::1", "http://a.b/", False),
    ],
)
def test_hosts_and_networks_are_exempt_from_the_proxy(
    no_proxies: pytest.MonkeyPatch, listed: str, url: str, is_exempt: bool
) -> None:
    no_proxies.setenv("ALL_PROXY", "127.0.0.1:3128")
    no_proxies.setenv("no_proxy", listed)
    assert proxy_for(url) == (None if is_exempt else Proxy("ALL_PROXY", "http://127.0.0.1:3128"))


def test_requests_have_the_options_of_a_search() -> None:
    searched = set(RequestOptions.__annotations__) - {"attention"}
    assert searched == {item.name for item in fields(SearchConfig)} - {"length_power"}
