"""What the routes answer, with a stand-in for the engine: bodies, options, failures, gates."""

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.testclient import TestClient

from captioner.errors import CheckpointError
from serving.app import create_app
from serving.errors import CaptioningFailed
from serving.problems import KINDS
from serving.settings import Settings

from .conftest import StandInEngine, jpeg

PHOTO = jpeg()
FORM = {"image": ("a.jpg", PHOTO, "image/jpeg")}
PNG = {"content-type": "image/png"}
OPENAI_IMAGE = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()


@contextmanager
def service(**settings: Any) -> Iterator[TestClient]:
    """A service in this process, ready."""
    given = Settings.from_environment({}, checkpoint=Path("."), **settings)
    with TestClient(create_app(given), raise_server_exceptions=False) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.01)
        yield client


@pytest.fixture
def client(engine: StandInEngine) -> Iterator[TestClient]:  # noqa: ARG001
    with service() as client:
        yield client


def problem(answer: Any) -> tuple[int, str]:
    """Return status and code of an answer that is a whole problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code == KINDS[body["code"]].status
    assert body["type"] == f"/docs#{body['code']}"
    assert body["title"] == KINDS[body["code"]].title
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    return body["status"], body["code"]


def test_the_three_forms_of_a_body_give_the_same_answer(client: TestClient) -> None:
    encoded = base64.b64encode(PHOTO).decode()
    answers = [
        client.post("/caption", files=FORM),
        client.post("/caption", files={"file": ("x", PHOTO)}),
        client.post("/caption", content=PHOTO, headers={"content-type": "image/jpeg"}),
        client.post("/caption", content=PHOTO, headers={"content-type": "IMAGE/anything"}),
        client.post(
            "/caption", content=PHOTO, headers={"content-type": "application/octet-stream"}
        ),
        client.post("/caption", content=PHOTO),
        client.post("/caption", json={"image": encoded}),
        client.post("/caption", json={"image": f"data:image/png;base64,{encoded}"}),
        client.post("/caption", json={"image": f"DATA:;BASE64,{encoded}"}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body.pop("request_id") == answer.headers["x-request-id"]
        timing = body.pop("timing_ms")
        assert set(timing) == {"queue", "decode", "encode", "search", "total"}
        assert timing["total"] >= 0
        assert body == {
            "caption": "a dog",
            "captions": [
                {
                    "text": "a dog",
                    "tokens": ["a", "dog"],
                    "log_prob": -1.0,
                    "score": -0.5,
                    "probability": pytest.approx(0.36788, abs=1e-4),
                }
            ],
            "image": {"width": 64, "height": 48, "format": "JPEG"},
            "model": {"name": "stand-in", "hash": f"{1:064d}"},
        }


def test_options_come_from_the_query_the_form_or_the_json(client: TestClient) -> None:
    encoded = base64.b64encode(PHOTO).decode()
    options = {"num_captions": 2, "beam_size": 4, "attention": True}
    text = {name: str(value).lower() for name, value in options.items()}
    for answer in (
        client.post("/caption", params=text, files=FORM),
        client.post("/caption", data=text, files=FORM),
        client.post("/caption", json={"image": encoded, **options}),
        client.post(  # JSON has one kind of number
            "/caption",
            json={"image": encoded}
            | {name: float(n) if type(n) is int else n for name, n in options.items()},
        ),
        client.post("/caption", params={"num_captions": 9}, data=text, files=FORM),
    ):
        captions = answer.json()["captions"]
        assert len(captions) == 2
        assert captions[0]["attention"] == [[[0.25, 0.25], [0.25, 0.25]]] * 2
    assert len(client.post("/caption?num_captions=7", files=FORM).json()["captions"]) == 7


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("beam_size=0", "beam_size is '0'; input should be greater than or equal to 1"),
        ("beam_size=11", "less than or equal to 10"),
        ("beam_size=two", "beam_size is 'two'"),
        ("beam_size=", "beam_size is ''"),
        ("beam_size=2&num_captions=3", "num_captions is 3 and beam_size 2"),
        ("max_length=0", "max_length is '0'"),
        ("max_length=51", "max_length"),
        ("attention=perhaps", "attention is 'perhaps'"),
        ("beam=3", "'beam' is no option; there are beam_size, num_captions, max_length"),
        ("num_captions=" + "9" * 5000, "num_captions"),
    ],
)
def test_bad_options_are_named_wherever_they_stand(
    client: TestClient, query: str, words: str
) -> None:
    fields = dict(pair.split("=") for pair in query.split("&"))
    answers = [client.post(f"/caption?{query}", files=FORM)]
    if len(query) < 1000:
        answers.append(client.post("/caption", data=fields, files=FORM))
    for answer in answers:
        assert problem(answer) == (422, "invalid_parameter")
        assert words in answer.json()["detail"]
        assert len(answer.json()["detail"]) < 400


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "1e999"])
def test_a_bad_timeout_is_refused(client: TestClient, value: str) -> None:
    answer = client.post("/caption", files=FORM, headers={"X-Request-Timeout": value})
    assert problem(answer) == (422, "invalid_parameter")
    assert "x-request-timeout" in answer.json()["detail"].lower()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"content": b""}, (422, "missing_file")),
        ({"files": {"other": (None, "x")}}, (422, "missing_file")),
        ({"files": {"image": PHOTO, "other": (None, "x")}}, (422, "invalid_parameter")),
        ({"files": {"other": ("a.jpg", PHOTO)}}, (422, "invalid_parameter")),
        ({"files": {"image": ("", b"")}}, (422, "missing_file")),
        ({"files": [("image", ("a", PHOTO)), ("file", ("b", PHOTO))]}, (422, "invalid_parameter")),
        ({"json": {}}, (422, "missing_file")),
        ({"json": {"image": None}}, (422, "missing_file")),
        ({"json": {"image": ""}}, (422, "missing_file")),
        ({"json": {"image": 3}}, (422, "invalid_parameter")),
        ({"json": {"image": "a b"}}, (422, "invalid_parameter")),
        ({"json": {"image": "QUJ"}}, (422, "invalid_parameter")),
        ({"json": {"image": "data:image/png,abc"}}, (422, "invalid_parameter")),
        ({"json": {"image": "http://example.org/a.jpg"}}, (422, "invalid_parameter")),
        ({"json": {"image": "é"}}, (422, "invalid_parameter")),
        ({"json": {"image": "QUJD"}}, (415, "unsupported_format")),
        ({"json": {"image": "QUJD", "beam_size": "3"}}, (422, "invalid_parameter")),
        ({"json": {"image": "QUJD", "beam_size": True}}, (422, "invalid_parameter")),
        ({"json": [1]}, (422, "invalid_parameter")),
        ({"content": b"%PDF-1.7", "headers": PNG}, (415, "unsupported_format")),
        ({"content": b"x", "headers": {"content-type": "text/x"}}, (415, "unsupported_format")),
        ({"data": {"image": "x"}}, (415, "unsupported_format")),
        ({"content": PHOTO[:40], "headers": PNG}, (422, "corrupt_image")),
    ],
)  # fmt: skip
def test_bodies_without_a_sound_image_are_refused(
    client: TestClient, given: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(client.post("/caption", **given)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"image": NaN}',
        b"[" * 5000,
        b"[" * 200_000,
        b'{"image": ' + b"1" * 5000 + b"}",
        b'"text"',
        b'{"a":{"a":' * 3000,
    ],
)
def test_malformed_json_is_a_problem(client: TestClient, body: bytes) -> None:
    for path in ("/caption", "/v1/chat/completions"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text


def test_several_images_each_get_a_result_or_an_error(
    client: TestClient, engine: StandInEngine
) -> None:
    parts = [PHOTO, b"no image", b"", jpeg(format="PNG")]
    form = [("image", (f"{index}", data)) for index, data in enumerate(parts)]
    answer = client.post("/captions?num_captions=2", files=form)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [one["index"] for one in results] == [0, 1, 2, 3]
    assert [one["image"]["format"] for one in (results[0], results[3])] == ["JPEG", "PNG"]
    assert len(results[3]["captions"]) == 2
    assert results[1]["error"]["code"] == "unsupported_format"
    assert results[2]["error"]["code"] == "missing_file"
    assert results[2]["error"]["request_id"] == answer.headers["x-request-id"]
    sixteen = [("image", ("x", PHOTO))] * 16
    assert len(client.post("/captions", files=sixteen).json()["results"]) == 16
    too_many = client.post("/captions", files=[*sixteen, *sixteen[:1]])
    assert problem(too_many) == (422, "invalid_parameter")
    engine.places = 8
    assert problem(client.post("/captions", files=sixteen)) == (429, "overloaded")
    assert problem(client.post("/captions", files={"a": (None, "b")})) == (422, "missing_file")


def test_a_full_queue_is_refused_at_once_and_unread(
    client: TestClient, engine: StandInEngine
) -> None:
    engine.places = 0
    started = time.perf_counter()
    answer = client.post("/caption", content=b"x" * 1_000_000)
    assert time.perf_counter() - started < 1
    assert problem(answer) == (429, "overloaded")
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["retry_after_seconds"] == 3
    engine.places = 1
    assert client.post("/caption", files=FORM).status_code == 200
    assert client.post("/caption", files=FORM).status_code == 200, "the place was given back"


def test_a_request_ends_at_its_deadline(client: TestClient, engine: StandInEngine) -> None:
    engine.seconds = 30
    started = time.perf_counter()
    answer = client.post("/caption", files=FORM, headers={"X-Request-Timeout": "0.2"})
    assert problem(answer) == (504, "deadline_exceeded")
    assert time.perf_counter() - started < 5


def test_a_large_body_is_refused(engine: StandInEngine) -> None:  # noqa: ARG001
    with service(body_limit_bytes=2000) as client:
        for given in ({"content": b"x" * 2001}, {"content": iter([b"x" * 1500] * 2)}):
            answer = client.post("/caption", **given)
            assert problem(answer) == (413, "body_too_large")
            assert answer.json()["limit"] == 2000
            assert answer.headers["connection"] == "close"


def test_what_nobody_foresaw_is_told_without_its_cause(
    client: TestClient, engine: StandInEngine
) -> None:
    engine.caption_error = RuntimeError("the secret of /root")
    with structlog.testing.capture_logs() as lines:
        answer = client.post("/caption", files=FORM)
        assert problem(answer) == (500, "internal_error")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        failed, request = lines
        assert failed["exc_info"]
        assert failed["request_id"] == request["request_id"] == answer.headers["x-request-id"]
        engine.caption_error = CaptioningFailed("not a number")
        assert problem(client.post("/caption", files=FORM)) == (500, "internal_error")
        several = client.post("/captions", files=FORM).json()["results"][0]["error"]
        assert several["code"] == "internal_error"


def test_unknown_paths_and_methods_are_problems_too(client: TestClient) -> None:
    for path in ("/nothing", "/caption/", "/page.css/../settings.py", "/%2e%2e/etc/passwd"):
        assert problem(client.get(path)) == (404, "not_found")
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = client.request(method, "/caption")
        assert problem(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "OPTIONS, POST"
    assert client.get("/caption").json()["detail"].startswith("GET is not for this path")


def test_head_and_options_are_answered(client: TestClient) -> None:
    for path in ("/health/live", "/version", "/docs", "/openapi.json", "/metrics"):
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/caption").status_code == 405
    answer = client.options("/health/live")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert "access-control-allow-origin" not in answer.headers


def test_health_has_the_names_that_others_ask_for(client: TestClient) -> None:
    for path in ("/health", "/health/live", "/v2/health/live"):
        assert client.get(path).json() == {"status": "live", "live": True}
    for path in ("/ready", "/health/ready", "/v2/health/ready"):
        assert client.get(path).json() == {"status": "ready", "ready": True}
    assert set(client.get("/version").json()) == {"name", "version"}
    about = client.get("/metadata").json()
    assert about["model"]["name"] == "stand-in"
    assert about["limits"]["body_bytes"] == 10_485_760


def test_starting_and_draining_are_not_ready(engine: StandInEngine) -> None:
    engine.loading_waits_for.clear()
    app = create_app(Settings(checkpoint=Path(".")))
    with TestClient(app) as client:
        assert client.get("/health/live").status_code == 200
        for answer in (
            client.get("/health/ready"),
            client.post("/caption", files=FORM),
            client.get("/metadata"),
        ):
            assert problem(answer) == (503, "not_ready")
            assert "being loaded" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) >= 1
        engine.loading_waits_for.set()
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        app.state.service.is_draining = True
        for answer in (client.get("/health/ready"), client.post("/caption", files=FORM)):
            assert problem(answer) == (503, "not_ready")
            assert "shutting down" in answer.json()["detail"]
        assert client.get("/health/live").status_code == 200


def test_a_bad_checkpoint_leaves_it_unready_and_says_why(engine: StandInEngine) -> None:
    engine.load_error = CheckpointError("model.json is truncated")
    with TestClient(create_app(Settings(checkpoint=Path(".")))) as client:
        while "truncated" not in client.get("/health/ready").text:
            time.sleep(0.01)
        assert problem(client.get("/health/ready")) == (503, "not_ready")


def test_ids_are_kept_if_harmless(client: TestClient) -> None:
    given = "trace-1.A_b:c/d=="
    assert client.get("/version", headers={"X-Request-ID": given}).headers["x-request-id"] == given
    for bad in ("x" * 65, "a b", "<script>", "", 'a"b'):
        answer = client.get("/version", headers={"X-Request-ID": bad})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_every_answer_forbids_what_a_browser_could_be_tricked_into(client: TestClient) -> None:
    for answer in (client.get("/version"), client.get("/nothing"), client.get("/docs")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in client.get("/version").headers


def test_the_page_is_served_with_its_policy_and_from_caches(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "max-age" in page.headers["cache-control"]
    known = {"If-None-Match": f'W/"other", {page.headers["etag"]}'}
    again = client.get("/", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/page.css").status_code == 200
    assert "<script>" not in page.text
    assert " style=" not in page.text


def test_the_documents_need_no_script_and_have_a_place_for_each_error(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "<script" not in page
    assert "http" not in re.sub("<pre>.*?</pre>", "", page, flags=re.DOTALL).replace("HTTP", "")
    for code in KINDS:
        assert f'id="{code}"' in page
    schema = client.get("/openapi.json").json()
    for parameter in schema["paths"]["/caption"]["post"]["parameters"]:
        kind = parameter["schema"]
        assert kind["type"] == "boolean" or {"minimum", "maximum"} <= set(kind), parameter
    for path in schema["paths"]:
        assert path in page
    caption = schema["paths"]["/caption"]["post"]
    assert {"200", "401", "408", "413", "415", "422", "429", "503", "504"} <= set(
        caption["responses"]
    )
    examples = caption["responses"]["422"]["content"]["application/problem+json"]["examples"]
    assert {"missing_file", "invalid_parameter", "corrupt_image"} <= set(examples)


def test_ibm_max_clients_get_their_form(client: TestClient, engine: StandInEngine) -> None:
    answer = client.post("/model/predict", files=FORM)
    body = answer.json()
    assert body["status"] == "ok"
    assert [one["index"] for one in body["predictions"]] == ["0", "1", "2"]
    assert set(body["predictions"][0]) == {"index", "caption", "probability"}
    assert body["predictions"][0]["probability"] == pytest.approx(0.36788, abs=1e-4)
    more = {"a": ["1", "2"] * 20, "beam_size": "no number"}
    assert client.post("/model/predict", files=FORM, data=more).status_code == 200
    missing = client.post("/model/predict")
    assert missing.status_code == 400
    assert missing.json()["message"] == "Input payload validation failed"
    assert "image" in missing.json()["errors"]
    broken = client.post("/model/predict", files={"image": ("a.jpg", b"x")})
    assert (broken.status_code, broken.json()["status"]) == (400, "error")
    engine.places = 0
    assert client.post("/model/predict", files=FORM).status_code == 429
    metadata = client.get("/model/metadata").json()
    assert set(metadata) == {"id", "name", "description", "type", "source", "license"}


def chat(url: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": url}]
    return {"model": "any", "messages": [{"role": "user", "content": content}], **more}


def test_openai_clients_get_their_form(client: TestClient, engine: StandInEngine) -> None:
    answer = client.post("/v1/chat/completions", json=chat({"url": OPENAI_IMAGE}, n=2)).json()
    assert answer["object"] == "chat.completion"
    assert [one["index"] for one in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["message"]["content"] == "a dog"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 4
    same = client.post("/v1/chat/completions", json=chat({"url": OPENAI_IMAGE}, n=2.0)).json()
    assert same["choices"] == answer["choices"]  # JSON has one kind of number
    plain = client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE, temperature=0.5))
    assert plain.status_code == 200
    streamed = client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE, stream=True))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = streamed.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == "a dog"
    assert client.get("/v1/models").json()["data"][0]["id"] == "stand-in"
    for body, status, code in (
        (chat({"url": "https://example.org/a.jpg"}), 422, "invalid_parameter"),
        (chat(OPENAI_IMAGE, n=0), 422, "invalid_parameter"),
        (chat(OPENAI_IMAGE, n=1.5), 422, "invalid_parameter"),
        (chat(OPENAI_IMAGE, n=True), 422, "invalid_parameter"),
        (chat(OPENAI_IMAGE, n=11), 422, "invalid_parameter"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 422, "missing_file"),
        ({"messages": []}, 422, "invalid_parameter"),
        ({}, 422, "invalid_parameter"),
    ):
        refused = client.post("/v1/chat/completions", json=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code"}
    engine.places = 0
    refused = client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_keys_open_what_costs_work_and_nothing_else_needs_one(engine: StandInEngine) -> None:  # noqa: ARG001
    keys = {"api_keys": "first-key,second-key"}
    with service(**keys) as client:
        for path in ("/", "/health/ready", "/version", "/docs", "/openapi.json", "/metrics"):
            assert client.get(path).status_code == 200
        for headers in (
            {},
            {"X-API-Key": "third"},
            {"Authorization": "Bearer "},
            {"X-API-Key": b"\xe9"},
        ):
            answer = client.post("/caption", files=FORM, headers=headers)
            assert problem(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for headers in ({"X-API-Key": "second-key"}, {"Authorization": "bearer first-key"}):
            assert client.post("/caption", files=FORM, headers=headers).status_code == 200
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.post("/model/predict", files=FORM).status_code == 401
        assert "security" in client.get("/openapi.json").json()["paths"]["/caption"]["post"]


def test_the_model_is_reloaded_with_a_key_only(engine: StandInEngine) -> None:
    with service() as client:
        assert problem(client.post("/admin/reload")) == (401, "unauthorized")
    with service(api_keys="a-key", admin_keys="admin-key") as client:
        assert client.post("/admin/reload", headers={"X-API-Key": "a-key"}).status_code == 401
        before = engine.generation
        done = client.post("/admin/reload", headers={"X-API-Key": "admin-key"})
        assert done.json()["model"]["hash"] == f"{before + 1:064d}"
        assert done.json()["before"]["hash"] == f"{before:064d}"
        engine.load_error = CheckpointError("hashes.json is missing")
        failed = client.post("/admin/reload", headers={"X-API-Key": "admin-key"})
        assert problem(failed) == (503, "reload_failed")
        assert "hashes.json is missing; the old model serves on" in failed.json()["detail"]
        answer = client.post("/caption", files=FORM, headers={"X-API-Key": "a-key"})
        assert answer.json()["model"]["hash"] == f"{before + 1:064d}"


def test_the_rate_is_counted_for_each_client(engine: StandInEngine) -> None:  # noqa: ARG001
    with service(rate_limit="2/minute", api_keys="one,two") as client:
        one, two = {"X-API-Key": "one"}, {"X-API-Key": "two"}
        assert [client.get("/v1/models", headers=one).status_code for _ in "abc"] == [200, 200, 429]
        answer = client.post("/caption", files=FORM, headers=one)
        assert problem(answer) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.post("/caption", files=FORM, headers=two).status_code == 200
        assert client.get("/version").status_code == 200


def test_other_origins_are_let_in_only_by_name(engine: StandInEngine) -> None:  # noqa: ARG001
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with service() as client:
        assert (
            "access-control-allow-origin" not in client.options("/caption", headers=asked).headers
        )
        assert "access-control-allow-origin" not in client.post(
            "/caption", files=FORM, headers=asked
        ).headers  # fmt: skip
    with service(cors_origins="https://a.example") as client:
        allowed = client.options("/caption", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = {**asked, "Origin": "https://b.example"}
        assert (
            "access-control-allow-origin" not in client.options("/caption", headers=other).headers
        )


def test_metrics_count_routes_by_their_template(client: TestClient) -> None:
    client.post("/caption", files=FORM)
    client.post("/caption", content=b"x")
    client.get("/a/path/that/nobody/knows")
    text = client.get("/metrics").text
    for line in (
        'http_requests_total{method="POST",route="/caption",status="200"} 1.0',
        'http_requests_total{method="POST",route="/caption",status="415"} 1.0',
        'http_requests_total{method="GET",route="none",status="404"} 1.0',
        'caption_rejected_total{code="unsupported_format"} 1.0',
        f'caption_model_info{{hash="{1:064d}",name="stand-in"}} 1.0',
        "caption_cancelled_total 0.0",
        "caption_decode_killed_total 0.0",
    ):
        assert line in text
    for name in (
        "http_request_duration_seconds",
        "caption_queue_depth",
        "caption_queue_wait_seconds",
        "caption_batch_size",
        'caption_stage_seconds_count{stage="decode"}',
    ):
        assert name in text
    assert "nobody" not in text


def test_requests_at_once_do_not_disturb_each_other(
    client: TestClient, engine: StandInEngine
) -> None:
    engine.seconds = 0.05
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/caption", files=FORM).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20
