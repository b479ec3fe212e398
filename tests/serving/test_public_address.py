"""An address that others can reach: keys or a word, and one rate for all workers."""

import httpx
import pytest

from serving.__main__ import main

from .conftest import Running, jpeg, running

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
