"""The service on Ray Serve: what it promises as uvicorn's does, and what it survives."""

import base64
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving.conftest import Running, jpeg, make_checkpoint, problem
from tests.serving.test_compatible import (  # noqa: F401 - collected here, with this `client`
    test_harmless_spellings_of_base64_are_taken,
    test_what_is_not_base64_is_refused,
)
from tests.serving.test_live import Load, turned
from tests.serving.test_routes import (  # noqa: F401
    test_a_bad_timeout_is_refused,
    test_a_heic_photograph_is_named_with_what_to_do,
    test_bodies_without_a_sound_image_are_refused,
    test_head_and_options_are_answered,
    test_malformed_json_is_a_problem,
    test_the_documents_describe_every_route_and_every_problem,
    test_the_page_is_served_with_its_policy_and_from_caches,
    test_unknown_paths_and_methods_are_problems_too,
)

pytestmark = [
    pytest.mark.timeout(600),
    # Ray's own, while it imports and while its processes end.
    pytest.mark.filterwarnings("ignore"),
]

PHOTO = jpeg((120, 90))
PATIENCE = 300.0  # seconds: a replica is a new process, which imports everything
OF_EACH_ANSWER = ("request_id", "timing_ms", "created", "id", "loaded_at")
SET_DIFFERENTLY = ("request_seconds",)  # so that a new replica is waited for
# What Ray's proxy adds or leaves out, and what a cluster has not: docs/ray_serve.md lists them.
OF_THE_PROXY = {
    "connection",
    "content-length",
    "date",
    "server",
    "transfer-encoding",
    "x-request-id",
}


def deploy(checkpoint: Path, port: int | None = None) -> None:
    """Serve a checkpoint, in the place of what is served; return when it is there."""
    from ray import serve

    from serving.ray_app import app

    if port is not None:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
    given = {
        "checkpoint": str(checkpoint),
        "decode_workers": 1,
        "receive_timeout_seconds": 2,
        "request_timeout_seconds": PATIENCE,
        "cors_origins": ["http://app.example"],
    }
    serve.run(app(given))


@pytest.fixture(scope="module")
def on_ray(ray_cluster: str, tiny_checkpoint: Path) -> Iterator[str]:  # noqa: ARG001
    """The address of the service on Ray Serve."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    deploy(tiny_checkpoint, port)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: httpx.get(url + "/health/ready", timeout=60).is_success)
    yield url
    serve.shutdown()


def wait_until(is_so: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module", params=["uvicorn", "ray"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the one and of the other server, for every test of the contract."""
    if request.param == "ray":
        url = request.getfixturevalue("on_ray")
    else:
        url = request.getfixturevalue("live").url
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


ENCODED = base64.b64encode(PHOTO).decode()
CHAT = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": f"data:image/png;base64,{ENCODED}"}],
        }
    ]
}
SAME = [
    ("POST", "/caption", {"content": PHOTO}),
    ("POST", "/caption", {"files": {"image": PHOTO}, "data": {"num_captions": "2"}}),
    ("POST", "/caption", {"json": {"image": ENCODED, "attention": True, "include": ["dog"]}}),
    ("POST", "/caption?sample=true&seed=3&num_captions=2", {"content": PHOTO}),
    ("POST", "/caption?include=zebra", {"content": PHOTO}),
    ("POST", "/caption?beam=3", {"content": PHOTO}),
    ("POST", "/captions", {"files": [("image", turned(5)), ("image", b"x"), ("image", b"")]}),
    ("POST", "/captions", {"files": [("image", PHOTO)] * 17}),
    ("POST", "/model/predict", {"files": {"image": PHOTO}}),
    ("POST", "/v1/chat/completions", {"json": {**CHAT, "n": 2}}),
    ("GET", "/v1/models", {}),
    ("GET", "/metadata", {}),
    ("GET", "/health/ready", {}),
    ("GET", "/v2/health/live", {}),
    ("GET", "/version", {"headers": {"Origin": "http://app.example"}}),
    ("OPTIONS", "/caption", {"headers": {"Origin": "http://elsewhere.example"}}),
    ("POST", "/admin/reload", {}),
]


@pytest.mark.parametrize(("method", "path", "given"), SAME, ids=[f"{m} {p}" for m, p, _ in SAME])
def test_ray_and_uvicorn_give_the_same_answer(
    live: Running, on_ray: str, method: str, path: str, given: dict[str, Any]
) -> None:
    ours, rays = (
        httpx.request(method, url + path, timeout=PATIENCE, **given) for url in (live.url, on_ray)
    )
    assert rays.status_code == ours.status_code, rays.text
    assert fields(rays) == fields(ours)
    is_json = "json" in ours.headers.get("content-type", "")
    assert not is_json or comparable(rays.json()) == comparable(ours.json())


def fields(answer: httpx.Response) -> dict[str, str]:
    return {name: text for name, text in answer.headers.items() if name not in OF_THE_PROXY}


def comparable(value: Any) -> Any:
    """Return JSON without what is of one answer alone, figures as exactly as threads let them."""
    if isinstance(value, dict):
        return {
            name: comparable(member)
            for name, member in value.items()
            if name not in OF_EACH_ANSWER + SET_DIFFERENTLY
        }
    if isinstance(value, list):
        return [comparable(member) for member in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def test_the_id_of_a_request_is_in_the_answer_once(on_ray: str) -> None:
    given = {"X-Request-ID": "trace-1.A_b:c"}
    answer = httpx.post(on_ray + "/caption", content=b"x", headers=given, timeout=PATIENCE)
    assert answer.headers.get_list("x-request-id") == ["trace-1.A_b:c"]
    assert answer.json()["request_id"] == "trace-1.A_b:c"
    assert problem(httpx.get(on_ray + "/nothing", timeout=PATIENCE)) == (404, "not_found")


def replicas(of: str) -> list[psutil.Process]:
    """Return the processes of a deployment's replicas."""
    title = f"ray::ServeReplica:default:{of}"
    ours = psutil.Process().children(recursive=True)
    found = []
    for process in ours:
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_of_a_killed_model_nobody_sees_anything(on_ray: str) -> None:
    (replica,) = replicas("model")
    with Load(on_ray, patience=PATIENCE) as load:
        wait_until(lambda: len(load.statuses) > 10)
        os.kill(replica.pid, signal.SIGKILL)
        before = len(load.statuses)
        wait_until(lambda: len(load.statuses) > before + 20)
    assert load.failures == []
    assert set(load.statuses) == {200}
    assert [one.pid for one in replicas("model")] != [replica.pid]


def test_of_a_killed_ingress_requests_are_answered_or_told_to_come_again(on_ray: str) -> None:
    (replica,) = replicas("ingress")
    with Load(on_ray, patience=PATIENCE) as load:
        wait_until(lambda: len(load.statuses) > 10)
        os.kill(replica.pid, signal.SIGKILL)
        before = len(load.statuses)
        wait_until(lambda: load.statuses[before:].count(200) > 20)
    assert load.failures == []
    assert set(load.statuses) <= {200, 503}


def test_a_rolling_update_of_the_model_loses_nothing(on_ray: str, tmp_path: Path) -> None:
    def served() -> str:
        answer = httpx.post(on_ray + "/caption", content=PHOTO, timeout=PATIENCE)
        return str(answer.json()["model"]["hash"])

    first = served()
    other = make_checkpoint(tmp_path / "other" / "best", seed=1)
    with Load(on_ray, patience=PATIENCE) as load:
        wait_until(lambda: len(load.statuses) > 10)
        deploy(other)
        wait_until(lambda: served() != first)
        before = len(load.statuses)
        wait_until(lambda: len(load.statuses) > before + 20)
    assert load.failures == []
    assert set(load.statuses) == {200}
    assert {served() for _ in range(5)} != {first}
