"""Answers of our own routes, with a fake model: bodies, options, failures, health, documents."""

import base64
import email
import json
import re
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import structlog
from pydantic import ValidationError
from starlette.testclient import TestClient

from captioner.errors import CheckpointError
from captioner.search_config import SearchConfig
from serving.app import create_app
from serving.errors import CaptioningFailed
from serving.problems import KINDS, Problem
from serving.routes.multipart import PREAMBLE_BYTES, FormReader
from serving.routes.request_options import OptionFields
from serving.settings import Settings

from .conftest import jpeg, problem, service_with
from .fake_model import FakeModel, hash_of

PHOTO = jpeg()
FORM = {"image": ("a.jpg", PHOTO, "image/jpeg")}
PNG = {"content-type": "image/png"}


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
                    "confidence": None,
                    "word_probabilities": pytest.approx([0.60653, 0.7788], abs=1e-4),
                    "end_probability": pytest.approx(0.7788, abs=1e-4),
                }
            ],
            "image": {"width": 64, "height": 48, "format": "JPEG"},
            "model": {"name": "fake", "hash": hash_of(1)},
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
        assert captions[0]["shares"] == {"sentinel": [0.7, 0.12346]}
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
        ("include=zebra", "include holds 'zebra', which is not among the 7 words that this model"),
        ("exclude=dog,zebra", "exclude holds 'zebra', which is not among the 7 words"),
        ("include=a,a,a,a,a", "include is ['a', 'a', 'a', 'a', 'a']; list should have at most 4"),
        ("include=a,dog&beam_size=10", "there may be at most 32"),
        ("include=dog&sample=true", "sample does not go with include"),
        ("top_p=0.5", "top_p is 0.5 without sample"),
        ("sample=perhaps", "sample is 'perhaps'"),
        ("sample=true&temperature=0", "temperature is '0'; input should be greater than 0"),
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


@pytest.mark.parametrize("words", ["a," * 300_000, "," * 600_000, ["a," * 100] * 3000])
def test_a_list_longer_than_any_is_not_taken_apart(words: str | list[str]) -> None:
    assert OptionFields(exclude=" , ".join(["dog"] * 100)).exclude == ["dog"] * 100
    assert OptionFields(exclude=[" dog ,a", "a,,"]).exclude == ["dog", "a", "a"]
    tracemalloc.start()
    with pytest.raises(ValidationError, match=r"at most (50 characters|100 items)"):
        OptionFields.model_validate({"exclude": words}, strict=True)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 1e6


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
        ({"files": [*[("image", ("", b""))] * 3, *FORM.items()] * 2}, (422, "invalid_parameter")),
        ({"files": [("image", ("", b""))] * 1000}, (422, "missing_file")),
        ({"files": [("image", ("", b""))] * 1001}, (422, "invalid_parameter")),
        ({"json": {}}, (422, "missing_file")),
        ({"json": {"image": None}}, (422, "missing_file")),
        ({"json": {"image": ""}}, (422, "missing_file")),
        ({"json": {"image": 3}}, (422, "invalid_parameter")),
        ({"json": {"image": "a b"}}, (415, "unsupported_format")),
        ({"json": {"image": "QUJ"}}, (415, "unsupported_format")),
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


def test_a_field_without_a_file_does_not_count_beside_one_with_it(client: TestClient) -> None:
    empty = ("", b"", "application/octet-stream")  # what a browser sends
    for fields in (
        [("image", empty), ("file", ("a.jpg", PHOTO))],
        [("image", ("a.jpg", PHOTO)), ("file", empty), ("file", empty)],
    ):
        for path in ("/caption", "/model/predict"):
            assert client.post(path, files=fields).status_code == 200


@pytest.mark.parametrize(
    "preamble",
    [b"", b"\r\n", b"Several parts.\r\n\r\nb --b\r\n", b"x" * (PREAMBLE_BYTES - 6) + b"\r\n", b"x"],
)
def test_what_stands_before_the_first_part_of_a_form_is_ignored(preamble: bytes) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = preamble + head + PHOTO + b"\r\n--b--\r\n"
    message = email.message_from_bytes(b"Content-Type: multipart/x; boundary=b\n\n" + body)
    has_part = message.is_multipart()
    assert has_part is (preamble != b"x")  # there the first boundary is the closing one
    for step in (1, 5, len(body)):
        form = FormReader("multipart/form-data; boundary=b", most_images=1)
        for place in range(0, len(body), step):
            form.feed(body[place : place + step])
        form.finish()
        assert form.images == [PHOTO] * has_part


def test_a_form_whose_boundary_does_not_come_soon_is_refused() -> None:
    form = FormReader("multipart/form-data; boundary=b", most_images=1)
    form.feed(b"x" * (PREAMBLE_BYTES - 1))
    with pytest.raises(Problem, match="ends before its closing boundary"):
        form.finish()
    with pytest.raises(Problem, match="its boundary is not in the first 4,096 bytes"):
        form.feed(b"\r\n--b\r\n")


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
    client: TestClient, shared_model: FakeModel
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
    shared_model.places = 8
    assert len(client.post("/captions", files=sixteen).json()["results"]) == 16
    shared_model.places = 0
    assert problem(client.post("/captions", files=sixteen)) == (429, "overloaded")
    shared_model.places = 8
    assert problem(client.post("/captions", files={"a": (None, "b")})) == (422, "missing_file")


def test_a_full_queue_is_refused_at_once_and_unread(
    client: TestClient, shared_model: FakeModel
) -> None:
    shared_model.places = 0
    started = time.perf_counter()
    answer = client.post("/caption", content=b"x" * 1_000_000)
    assert time.perf_counter() - started < 1
    assert problem(answer) == (429, "overloaded")
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["retry_after_seconds"] == 3
    shared_model.places = 1
    assert client.post("/caption", files=FORM).status_code == 200
    assert client.post("/caption", files=FORM).status_code == 200, "the place was given back"


def test_a_request_ends_at_its_deadline(client: TestClient, shared_model: FakeModel) -> None:
    shared_model.seconds = 30
    started = time.perf_counter()
    answer = client.post("/caption", files=FORM, headers={"X-Request-Timeout": "0.2"})
    assert problem(answer) == (504, "deadline_exceeded")
    assert time.perf_counter() - started < 5


def test_a_large_body_is_refused(model: FakeModel) -> None:  # noqa: ARG001
    with service_with(body_limit_bytes=2000) as client:
        for given in ({"content": b"x" * 2001}, {"content": iter([b"x" * 1500] * 2)}):
            answer = client.post("/caption", **given)
            assert problem(answer) == (413, "body_too_large")
            assert answer.json()["limit"] == 2000
            assert answer.headers["connection"] == "close"


def test_what_nobody_foresaw_is_told_without_its_cause(
    client: TestClient, shared_model: FakeModel
) -> None:
    shared_model.caption_error = RuntimeError("the secret of /root")
    with structlog.testing.capture_logs() as lines:
        answer = client.post("/caption", files=FORM)
        assert problem(answer) == (500, "internal_error")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        failed, request = lines
        assert failed["exc_info"]
        assert failed["request_id"] == request["request_id"] == answer.headers["x-request-id"]
        shared_model.caption_error = CaptioningFailed("not a number")
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
    for path in ("/health/live", "/version", "/docs", "/problems", "/openapi.json", "/metrics"):
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
        assert client.get(path).json() == {
            "status": "ready",
            "ready": True,
            "engine": "fake",
            "precision": {"encoder": "float32", "decoder": "int8"},
        }
    assert set(client.get("/version").json()) == {"name", "version"}
    about = client.get("/metadata").json()
    assert about["model"]["name"] == "fake"
    assert about["limits"]["body_bytes"] == 10_485_760


def test_starting_and_draining_are_not_ready(model: FakeModel) -> None:
    model.loading_waits_for.clear()
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
        model.loading_waits_for.set()
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        app.state.service.begin_draining()
        for answer in (client.get("/health/ready"), client.post("/caption", files=FORM)):
            assert problem(answer) == (503, "not_ready")
            assert "shutting down" in answer.json()["detail"]
        assert client.get("/health/live").status_code == 200


def test_a_bad_checkpoint_leaves_it_unready_and_says_why(model: FakeModel) -> None:
    model.load_error = CheckpointError("model.json is truncated")
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
    for known in (f'W/"other", {page.headers["etag"]}', "*"):
        again = client.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"If-None-Match": '"*"'}).status_code == 200
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/page.css").status_code == 200
    assert "<script>" not in page.text
    assert " style=" not in page.text


def test_metrics_count_routes_by_their_template(model: FakeModel) -> None:  # noqa: ARG001
    with service_with() as client:
        _check_metrics(client)


def _check_metrics(client: TestClient) -> None:
    client.post("/caption", files=FORM)
    client.post("/caption", content=b"x")
    client.get("/a/path/that/nobody/knows")
    text = client.get("/metrics").text
    for line in (
        'http_requests_total{method="POST",route="/caption",status="200"} 1.0',
        'http_requests_total{method="POST",route="/caption",status="415"} 1.0',
        'http_requests_total{method="GET",route="none",status="404"} 1.0',
        'caption_rejected_total{code="unsupported_format"} 1.0',
        f'caption_model_info{{hash="{hash_of(1)}",name="fake"}} 1.0',
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
    client: TestClient, shared_model: FakeModel
) -> None:
    shared_model.seconds = 0.05
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/caption", files=FORM).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20


def test_the_documents_describe_every_route_and_every_problem(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for parameter in schema["paths"]["/caption"]["post"]["parameters"]:
        kind = parameter["schema"]
        limits = {name.replace("exclusiveM", "m") for name in kind}
        bounds = {"maxItems"} if kind["type"] == "array" else {"minimum", "maximum"}
        assert kind["type"] == "boolean" or bounds <= limits, parameter
        if declared := SearchConfig.__dataclass_fields__.get(parameter["name"]):
            default = declared.default
            assert kind.get("default") == (list(default) if isinstance(default, tuple) else default)
            assert declared.metadata["description"][1:] in kind["description"]
    caption = schema["paths"]["/caption"]["post"]
    assert {"200", "401", "408", "413", "415", "422", "429", "503", "504"} <= set(
        caption["responses"]
    )
    for reference in re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', json.dumps(schema)):
        assert reference in schema["components"]["schemas"]
    examples = caption["responses"]["422"]["content"]["application/problem+json"]["examples"]
    assert {"missing_file", "invalid_parameter", "corrupt_image"} <= set(examples)
    page = client.get("/problems").text
    for code in KINDS:
        assert f'<tr id="{code}">' in page
    assert "`" not in page
    for path in ("/", "/docs", "/problems"):
        text = client.get(path).text
        elsewhere = re.findall(
            r'<a [^>]*href="(https?:[^"]*)"', text
        )  # nothing is loaded from there
        links = set(re.findall(r'(?:href|src|action)="([^"]*)"', text)) - set(elsewhere)
        ours = r"data:|(examples/)?[a-z_-]+(\.[a-z-]+)*$"
        assert [link for link in links if not re.match(ours, link)] == []
    refused = client.post("/caption", content=b"x")
    assert client.get(urljoin("/caption", refused.json()["type"])).status_code == 200


@pytest.mark.parametrize("longest", [5, 80, 200])
def test_the_longest_caption_is_one_limit(model: FakeModel, longest: int) -> None:  # noqa: ARG001
    with service_with(longest_caption=str(longest)) as client:
        assert client.post("/caption", files=FORM).status_code == 200
        for given in ({"params": {"max_length": longest}}, {"data": {"max_length": longest}}):
            assert client.post("/caption", files=FORM, **given).status_code == 200
        refused = client.post(f"/caption?max_length={longest + 1}", files=FORM)
        assert problem(refused) == (422, "invalid_parameter")
        assert str(longest) in refused.json()["detail"]
        schema = client.get("/openapi.json").json()["paths"]["/caption"]["post"]
        parameters = {one["name"]: one["schema"] for one in schema["parameters"]}
        form = schema["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        for option in (parameters["max_length"], form["max_length"]):
            assert option["maximum"] == longest
            assert option["default"] <= longest
        assert parameters["beam_size"]["maximum"] == 10
        assert client.get("/metadata").json()["limits"]["max_length"] == longest


def test_a_heic_photograph_is_named_with_what_to_do(client: TestClient) -> None:
    answer = client.post("/caption", content=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert problem(answer) == (415, "unsupported_format")
    assert "HEIC" in answer.json()["detail"]
    assert "Most Compatible" in answer.json()["detail"]
