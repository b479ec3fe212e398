"""An address that others can reach: keys or a word, and one rate for all workers."""

import socket

import httpx
import pytest

from serving.__main__ import main

from .conftest import Running, jpeg, running
from .fake_model import FakeModel
from .live_in_thread import Live

PUBLIC = ("--host", "0.0.0.0")


def local(service: Running) -> str:
    return f"http://127.0.0.1:{service.port}"


def test_without_keys_it_does_not_start(
    tiny_checkpoint: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PUBLIC, "--port", "0", "--checkpoint", str(tiny_checkpoint)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: host is '0.0.0.0', which others can reach, and there are no keys"
    )


def test_with_the_word_it_listens(tiny_checkpoint: object) -> None:
    with running(*PUBLIC, "--no-auth", "--checkpoint", str(tiny_checkpoint)) as service:
        assert httpx.get(local(service) + "/health/live", timeout=30).status_code == 200


def test_keys_are_asked_for_and_counted_once_for_all_workers(tiny_checkpoint: object) -> None:
    with running(
        *PUBLIC,
        *("--checkpoint", str(tiny_checkpoint), "--decode-workers", "1"),
        *("--workers", "2", "--rate-limit", "8/hour"),
        environ={"CAPTIONER_API_KEYS": "the-key"},
    ) as service:
        service.wait_for(lambda: True if len(service.events("model loaded")) == 2 else None)
        service.wait_for(lambda: httpx.get(local(service) + "/ready").status_code == 200 or None)
        url = local(service) + "/caption"
        assert httpx.post(url, content=jpeg(), timeout=60).status_code == 401
        wrong = {"X-API-Key": "another"}
        assert httpx.post(url, content=jpeg(), headers=wrong, timeout=60).status_code == 401
        key = {"Authorization": "Bearer the-key"}
        asked = [httpx.post(url, content=jpeg(), headers=key, timeout=60) for _ in range(12)]
        assert [one.status_code for one in asked].count(200) == 8
        assert {one.status_code for one in asked[8:]} == {429}
        assert int(asked[-1].headers["retry-after"]) > 60
        assert service.stop() == 0


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        pytest.param(
            "::",
            marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6"),
        ),
    ],
)
def test_clients_have_the_same_addresses_on_a_socket_for_both(model: FakeModel, host: str) -> None:
    service = Live(model, host=host, no_auth=True, rate_limit="1/hour", trusted_proxies="127.0.0.3")

    def asked(client: str, behind: str = "") -> int:
        headers = {"X-Forwarded-For": behind} if behind else {}
        with httpx.Client(transport=httpx.HTTPTransport(local_address=client)) as http:
            return http.get(service.url + "/v1/models", headers=headers).status_code

    try:
        assert [asked("127.0.0.1"), asked("127.0.0.1"), asked("127.0.0.2")] == [200, 429, 200]
        behind = [asked("127.0.0.3", one) for one in ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2")]
        assert behind == [200, 200, 429]
        assert asked("127.0.0.2", "192.0.2.3") == 429  # nobody believes it
    finally:
        service.close()
