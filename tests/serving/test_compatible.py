"""The interfaces of IBM MAX and of OpenAI."""

import base64
import json
import tracemalloc
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.problems import Problem
from serving.routes.uploads import image_from_text

from .conftest import jpeg, service_with
from .fake_model import FakeModel

PHOTO = jpeg()
FORM = {"image": ("a.jpg", PHOTO, "image/jpeg")}
INFER = "/v2/models/captioner/infer"
OPENAI_IMAGE = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()


def test_ibm_max_clients_get_their_form(client: TestClient, shared_model: FakeModel) -> None:
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
    shared_model.places = 0
    assert client.post("/model/predict", files=FORM).status_code == 429
    metadata = client.get("/model/metadata").json()
    assert set(metadata) == {"id", "name", "description", "type", "source", "license"}


def test_every_interface_keeps_to_the_longest_caption(model: FakeModel) -> None:
    with service_with(longest_caption=3) as client:
        assert client.post("/model/predict", files=FORM).status_code == 200
        assert client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE)).status_code == 200
        assert client.post("/caption", files=FORM).status_code == 200
        assert client.post(INFER, json=inference()).status_code == 200
    assert [one.max_length for one in model.options] == [3, 3, 3, 3]


@pytest.mark.parametrize("kind", ["chat", "inference"])
def test_a_long_text_beside_the_image_is_not_kept_until_the_answer(
    client: TestClient, shared_model: FakeModel, kind: str
) -> None:
    """One character beyond the Basic Multilingual Plane makes 4 bytes of each in Python."""
    text = "\U0001f600" + "a" * 2_000_000
    if kind == "chat":
        path, body = "/v1/chat/completions", chat(OPENAI_IMAGE)
        body["messages"].append({"role": "system", "content": text})
        body["note"] = text
    else:
        path, body = INFER, inference(parameters={"headers": text}, note=text)
    held: list[int] = []
    shared_model.on_caption = lambda: held.append(tracemalloc.get_traced_memory()[0])
    content = json.dumps(body, ensure_ascii=False).encode()
    del body
    tracemalloc.start()
    try:
        assert client.post(path, content=content).status_code == 200
    finally:
        tracemalloc.stop()
    assert held[0] < len(content) + 1_000_000  # the client's copy


def inference(**more: Any) -> dict[str, Any]:
    data = base64.b64encode(PHOTO).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [data]}
    return {"inputs": [tensor], **more}


def chat(url: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": url}]
    return {"model": "any", "messages": [{"role": "user", "content": content}], **more}


def test_openai_clients_get_their_form(client: TestClient, shared_model: FakeModel) -> None:
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
    assert client.get("/v1/models").json()["data"][0]["id"] == "fake"
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
    shared_model.places = 0
    refused = client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json()["error"]["type"] == "rate_limit_error"


def chunks_of(client: TestClient, **more: Any) -> list[dict[str, Any]]:
    """Return the chunks of a streamed chat, which ends with [DONE]."""
    answer = client.post("/v1/chat/completions", json=chat(OPENAI_IMAGE, stream=True, **more))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = answer.text.strip().split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_streamed_chat_ends_with_its_usage_where_it_is_asked_for(client: TestClient) -> None:
    *chunks, last = chunks_of(client, n=2, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 4}
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    for options in (None, {}, {"include_usage": False}, {"include_obfuscation": False}):
        assert all(
            chunk["choices"] and "usage" not in chunk
            for chunk in chunks_of(client, stream_options=options)
        )


def test_one_model_can_be_asked_for(client: TestClient) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/fake").json() == listed
    for name in ("gpt-4o", "fake2", "FAKE", "%2e%2e"):
        answer = client.get(f"/v1/models/{name}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "model_not_found")
        assert (error["type"], error["param"]) == ("invalid_request_error", "model")
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"


# Bytes whose base64 holds both letters in which the alphabet for URLs differs, and padding.
SPELT = jpeg((64, 48), "olive") + b"\xff\xfe\xfb\xef"


@pytest.mark.parametrize("data", [SPELT, SPELT + b"\xff", SPELT + b"\xff\xfb"])
def test_harmless_spellings_of_base64_are_taken(client: TestClient, data: bytes) -> None:
    plain = base64.b64encode(data).decode()
    assert {"+", "/"} <= set(plain)
    lines = "\r\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
    encoded = plain.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    texts = [
        plain,
        lines,
        lines.replace("\r\n", "\n\t "),
        plain.rstrip("="),
        plain.replace("+", "-").replace("/", "_"),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        encoded,
        f"  {plain}\n",
        f"data:image/jpeg;base64,{lines}",
        f"data:image/jpeg;base64,{encoded}",
        f"data:image/jpeg; BASE64,{plain}",
        f" data:image/jpeg;charset=x;base64,{plain.rstrip('=')}",
        f"data:image/jpeg;base64,{lines}".replace("\r\n", "%0A"),
    ]
    for text in texts:
        answer = client.post("/caption", json={"image": text})
        assert answer.status_code == 200, (text[:60], answer.text)
    for text in texts[8:]:
        answer = client.post("/v1/chat/completions", json=chat({"url": text}))
        assert answer.status_code == 200, text[:60]


@pytest.mark.parametrize(
    "text", ["QUJDR", "QU=JD", "QUJD*", "QUJD%2", "QUJD%", "QUJD%ff", "%51UJD", "QU%2", "data:,x"]
)
def test_what_is_not_base64_is_refused(client: TestClient, text: str) -> None:
    assert client.post("/caption", json={"image": text}).json()["code"] == "invalid_parameter"


@pytest.mark.parametrize(
    ("unit", "plain"),
    [("%2B%2f", "+/"), ("AA %41", None), ("AA A\n", "AAA"), ("%0a%0D%20", ""), ("%", None)],
)
def test_base64_is_undone_without_an_object_for_each_digit(unit: str, plain: str | None) -> None:
    count = 4 * 20_000
    text = unit * count
    expected = None if plain is None else base64.b64decode(plain * count)
    tracemalloc.start()
    try:
        found = image_from_text(text)
    except Problem:
        found = None
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == expected
    assert most_bytes < 4 * len(text)
