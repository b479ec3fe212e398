"""The Open Inference Protocol: by hand against its specification, and with Triton's own client."""

import asyncio
import base64
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from captioner.checkpoint_folders import shipped_model
from captioner.deployable import load_deployable

from .conftest import jpeg, service_with
from .fake_model import FakeModel, hash_of
from .live_in_thread import Live

PHOTO, OTHER = jpeg(), jpeg((40, 40), format="PNG")
INFER = "/v2/models/captioner/infer"
VERSION = hash_of(1)[:12]


def in_json(*files: bytes, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(file).decode() for file in files]
    return {
        "name": "image",
        "datatype": "BYTES",
        "shape": shape or [len(files)],
        "data": data,
        **more,
    }


def in_bytes(*files: bytes, **more: Any) -> tuple[dict[str, Any], bytes]:
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(data)},
    }
    return {**tensor, **more}, data


def send(client: TestClient, body: dict[str, Any], data: bytes | None = None, **more: Any) -> Any:
    text = json.dumps(body).encode()
    headers = {} if data is None else {"Inference-Header-Content-Length": str(len(text))}
    return client.post(INFER, content=text + (data or b""), headers=headers, **more)


def error(answer: Any) -> tuple[int, str]:
    """Return status and message of an answer that is the protocol's error object."""
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]


def test_the_document_shows_the_model_in_the_box() -> None:
    text = (Path(__file__).parents[2] / "docs" / "open_inference.md").read_text(encoding="utf-8")
    (version,) = re.findall(r'"model_version": "(\w+)"', text)
    assert load_deployable(shipped_model()).hash.startswith(version)


def test_the_server_and_its_model_describe_themselves(client: TestClient) -> None:
    about = client.get("/v2").json()
    assert about == client.get("/v2/").json()
    assert about["name"] == "captioner"
    assert "binary_tensor_data" in about["extensions"]
    for path in ("/v2/models/captioner", f"/v2/models/captioner/versions/{VERSION}"):
        assert client.get(path).json() == {
            "name": "captioner",
            "versions": [VERSION],
            "platform": "captioner_fake",
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "caption", "datatype": "BYTES", "shape": [-1, -1]},
                {"name": "log_prob", "datatype": "FP32", "shape": [-1, -1]},
            ],
        }
        assert client.get(path + "/ready").json() == {"name": "captioner", "ready": True}
        assert client.get(path + "/config").json()["input"] == [
            {"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}
        ]


def test_another_model_or_version_is_not_found(client: TestClient) -> None:
    for path in ("", "/ready", "/config"):
        assert error(client.get("/v2/models/other" + path)) == (
            404,
            "there is no model 'other'; the one that is served is 'captioner'",
        )
        status, text = error(client.get("/v2/models/captioner/versions/7" + path))
        assert (status, f"has no version '7'; it is '{VERSION}'" in text) == (404, True)
    assert error(client.post("/v2/models/other/infer", json={}))[0] == 404
    assert error(client.post("/v2/models/captioner/versions/7/infer", json={}))[0] == 404
    assert error(client.get("/v2/models/a/b/c"))[0] == 404
    assert error(client.get(INFER))[0] == 405


def test_tensors_of_json_have_a_row_for_each_photograph(client: TestClient) -> None:
    answer = send(client, {"id": "42 \U0001f436", "inputs": [in_json(PHOTO, OTHER)]})
    assert answer.headers["content-type"] == "application/json"
    expected = {
        "model_name": "captioner",
        "model_version": VERSION,
        "id": "42 \U0001f436",
        "outputs": [
            {"name": "caption", "datatype": "BYTES", "shape": [2, 1], "data": ["a dog", "a dog"]},
            {"name": "log_prob", "datatype": "FP32", "shape": [2, 1], "data": [-1.0, -1.0]},
        ],
    }
    assert answer.json() == expected
    column = in_json(PHOTO, OTHER, shape=[2, 1])
    flat = list(column["data"])
    base = {"content_type": "base64"}
    for tensor in (
        column,
        {**column, "data": [[one] for one in flat]},
        {**column, "parameters": base},
        {**column, "data": [f"data:image/jpeg;base64,{one}" for one in flat]},
    ):
        assert send(client, {"id": "42 \U0001f436", "inputs": [tensor]}).json() == expected
    versioned = client.post(
        f"/v2/models/captioner/versions/{VERSION}/infer", json={"inputs": [in_json(PHOTO)]}
    )
    assert "id" not in versioned.json()


def test_options_stand_in_the_parameters_or_in_the_query(
    client: TestClient, shared_model: FakeModel
) -> None:
    ours = {"num_captions": 3, "beam_size": 4}
    tritons = {"priority": 1, "sequence_id": 5, "timeout": 9_000_000, "triton_final_response": True}
    body = {"inputs": [in_json(PHOTO, OTHER)], "outputs": [{"name": "log_prob"}]}
    for answer in (
        send(client, {**body, "parameters": {**ours, **tritons}}),
        send(client, body, params=ours),
    ):
        (output,) = answer.json()["outputs"]
        assert (output["shape"], output["data"]) == ([2, 3], [-1.0, -2.0, -3.0] * 2)
    shared_model.most_captions = 2
    found = send(client, {**body, "outputs": [], "parameters": ours}).json()["outputs"]
    assert [one["shape"] for one in found] == [[2, 3], [2, 3]]
    assert found[0]["data"] == ["a dog", "a dog", ""] * 2
    assert np.float32(found[1]["data"][2]) == np.finfo(np.float32).min


def test_bytes_follow_the_json_both_ways(client: TestClient) -> None:
    tensor, data = in_bytes(PHOTO, OTHER)
    answer = send(client, {"inputs": [tensor], "parameters": {"binary_data_output": True}}, data)
    assert answer.headers["content-type"] == "application/octet-stream"
    end = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.content[:end])["outputs"]
    assert [one["parameters"]["binary_data_size"] for one in outputs] == [18, 8]
    assert all("data" not in one for one in outputs)
    assert answer.content[end:] == b"\5\0\0\0a dog" * 2 + struct.pack("<2f", -1, -1)
    wanted = [
        {"name": "log_prob", "parameters": {"binary_data": True}},
        {"name": "caption", "parameters": {"binary_data": False}},
    ]
    answer = send(client, {"inputs": [in_json(PHOTO)], "outputs": wanted})
    end = int(answer.headers["inference-header-content-length"])
    first, second = json.loads(answer.content[:end])["outputs"]
    assert (first["name"], first["parameters"]) == ("log_prob", {"binary_data_size": 4})
    assert (second["name"], second["data"]) == ("caption", ["a dog"])
    assert answer.content[end:] == struct.pack("<f", -1)


SOUND = in_json(PHOTO)
SOUND_BYTES, DATA = in_bytes(PHOTO)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs is missing"),
        ({"inputs": []}, "inputs holds nothing; the model has one input, 'image'"),
        ({"inputs": [SOUND, SOUND]}, "inputs holds 'image', 'image'"),
        ({"inputs": [{**SOUND, "name": "x"}]}, "inputs holds 'x'"),
        ({"inputs": [{**SOUND, "datatype": "UINT8"}]}, "datatype is 'UINT8'; send whole files"),
        ({"inputs": [{**SOUND, "shape": [2]}]}, "data has 1 elements; shape promises 2"),
        ({"inputs": [{**SOUND, "shape": [-1]}]}, "shape is [-1]; it is [N] or [N, 1]"),
        ({"inputs": [{**SOUND, "shape": [1, 2]}]}, "shape is [1, 2]"),
        ({"inputs": [{**SOUND, "shape": []}]}, "shape is []"),
        ({"inputs": [{**SOUND, "shape": -1}]}, "inputs.0.shape is -1"),
        ({"inputs": [in_json(*[PHOTO] * 17)]}, "at most 16"),
        ({"inputs": [{**SOUND, "data": SOUND["data"][0]}]}, "inputs.0.data is"),
        ({"inputs": [{**SOUND, "data": [3]}]}, "image[0] is not text"),
        ({"inputs": [{**SOUND, "data": ["*"]}]}, "image[0] is not base64"),
        ({"inputs": [{**SOUND, "data": [""]}]}, "image[0] is empty"),
        ({"inputs": [{**SOUND, "data": None}]}, "either data or the parameter binary_data_size"),
        ({"inputs": [{**SOUND, "parameters": {"content_type": "np"}}]}, "content_type is 'np'"),
        ({"inputs": [{**SOUND, "parameters": {"shared_memory_region": "a"}}]}, "no shared memory"),
        ({"inputs": [SOUND], "outputs": [{"name": "x"}]}, "'x' is no output; there are caption, l"),
        ({"inputs": [SOUND], "outputs": [{"name": "confidence"}]}, "'confidence' is no output"),
        (
            {
                "inputs": [SOUND],
                "outputs": [{"name": "caption", "parameters": {"classification": 2}}],
            },
            "output 'caption' cannot be given by classification",
        ),
        ({"inputs": [SOUND], "parameters": {"binary_data_output": 1}}, "binary_data is '1'"),
        ({"inputs": [SOUND], "parameters": {"beam": 2}}, "'beam' is no option; there are beam_siz"),
        ({"inputs": [SOUND], "parameters": {"beam_size": "2"}}, "beam_size is '2'"),
        ({"inputs": [SOUND], "parameters": {"beam_size": 11}}, "beam_size is 11"),
        ({"inputs": [SOUND], "parameters": {"include": "zebra"}}, "include holds 'zebra'"),
        ({"inputs": [SOUND], "parameters": {"attention": True}}, "attention is no output here"),
        ({"inputs": [SOUND], "parameters": {"timeout": 0.5}}, "timeout is '0.5'"),
        ({"inputs": [SOUND], "parameters": {"timeout": 10**400}}, "timeout is '1000"),
        ({"inputs": [SOUND], "id": 7}, "id is 7"),
        ({"inputs": [SOUND], "id": "\ud83d"}, "half of a surrogate pair"),
    ],
)
def test_a_wrong_request_is_a_400_that_names_it(
    client: TestClient, body: dict[str, Any], words: str
) -> None:
    status, text = error(send(client, body))
    assert status == 400
    assert words in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("tensor", "data", "words"),
    [
        (SOUND_BYTES, DATA + b"x", "binary_data_size is"),
        (SOUND_BYTES, DATA[:-1], "binary_data_size is"),
        ({**SOUND_BYTES, "shape": [2]}, DATA, "end before element 1; shape promises 2"),
        ({**SOUND_BYTES, "parameters": {"binary_data_size": 3}}, b"abc", "end before element 0"),
        ({**SOUND_BYTES, "parameters": {"binary_data_size": 5}}, b"\xff" * 5, "element 0 has 4,2"),
        ({**SOUND_BYTES, "parameters": {"binary_data_size": 9}}, b"\1" + b"\0" * 8, "4 bytes are"),
        ({**SOUND_BYTES, "parameters": {"binary_data_size": 4}}, b"\0" * 4, "image[0] is empty"),
        (SOUND, b"more", "4 bytes follow the JSON, and no tensor is made of them"),
        ({**SOUND, **SOUND_BYTES}, DATA, "either data or the parameter binary_data_size"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(
    client: TestClient, tensor: dict[str, Any], data: bytes, words: str
) -> None:
    status, text = error(send(client, {"inputs": [tensor]}, data))
    assert status == 400
    assert words in text


def test_the_length_of_the_json_is_checked(client: TestClient) -> None:
    for length in ("-1", "x", "99"):
        headers = {"Inference-Header-Content-Length": length}
        assert error(client.post(INFER, content=b"{}", headers=headers))[0] == 400
    assert error(client.post(INFER, content=b"\xff"))[0] == 400


def test_one_broken_photograph_fails_all_and_is_named(
    client: TestClient, shared_model: FakeModel
) -> None:
    shared_model.reset()
    status, text = error(send(client, {"inputs": [in_json(PHOTO, PHOTO[:40], b"no picture")]}))
    assert status == 400
    assert text.startswith("image[1]: ")
    assert shared_model.started == []
    assert error(send(client, {"inputs": [in_json(b"no picture")]}))[1].startswith("image[0]: ")


def test_failures_have_the_form_of_the_protocol(
    client: TestClient, shared_model: FakeModel
) -> None:
    body = {"inputs": [in_json(PHOTO)]}
    shared_model.places = 0
    full = send(client, {"inputs": [in_json(PHOTO, OTHER)]})
    assert error(full) == (429, "the queue is full")
    assert full.headers["retry-after"] == "3"
    shared_model.places, shared_model.seconds = 1, 5.0
    assert error(send(client, {**body, "parameters": {"timeout": 50_000}}))[0] == 504
    assert error(client.post(INFER, json=body, headers={"X-Request-Timeout": "soon"}))[0] == 400
    shared_model.reset()
    shared_model.caption_error = RuntimeError("secret")
    status, text = error(send(client, body))
    assert (status, "secret" in text) == (500, False)


def test_keys_guard_inference_and_nothing_else(model: FakeModel) -> None:
    model.confidence = 0.25
    with service_with(api_keys="a-key", body_limit_bytes=5000) as client:
        for path in ("", "/models/captioner", f"/models/captioner/versions/{VERSION}/ready"):
            assert client.get("/v2" + path).status_code == 200
        body = {"inputs": [in_json(PHOTO)], "outputs": [{"name": "confidence"}]}
        versioned = f"/v2/models/captioner/versions/{VERSION}/infer"
        for path in (INFER, versioned, "/v2/models/other/infer", "/v2/nothing"):
            assert error(client.post(path, json=body))[0] == 401
        key = {"Authorization": "Bearer a-key"}
        found = client.post(versioned, json=body, headers=key).json()["outputs"]
        assert [(one["name"], one["data"]) for one in found] == [("confidence", [0.25])]
        too_large = client.post(INFER, content=b" " * 6000, headers=key)
        assert error(too_large)[0] == 413


def test_a_version_is_gone_when_its_model_is_replaced(model: FakeModel) -> None:
    with service_with(admin_keys="root") as client:
        old, new = (hash_of(model.generation + later)[:12] for later in (0, 1))
        body = {"inputs": [in_json(PHOTO)]}

        def ask(version: str) -> Any:
            return client.post(f"/v2/models/captioner/versions/{version}/infer", json=body)

        assert ask(old).json()["model_version"] == old
        assert client.post("/admin/reload", headers={"X-API-Key": "root"}).status_code == 200
        assert error(ask(old))[0] == 404
        assert ask(new).json()["model_version"] == new
        assert client.post(INFER, json=body).json()["model_version"] == new


def test_requests_are_counted_by_route_not_by_path(client: TestClient) -> None:
    client.get("/v2/models/some-name-of-a-client")
    send(client, {"inputs": [in_json(PHOTO)]})
    counted = client.get("/metrics").text
    assert "some-name" not in counted
    assert 'route="/v2/models/{model}",status="404"' in counted
    assert f'method="POST",route="{INFER}",status="200"' in counted


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patches:
        live = Live(FakeModel().install(patches))
        yield live
        live.close()


@pytest.fixture
def triton(running: Live) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{running.port}") as client:
        yield client
    running.fake.reset()


def triton_input(*files: bytes, binary: bool = True) -> Any:
    import tritonclient.http as http

    texts = files if binary else [base64.b64encode(file) for file in files]
    array = np.array(texts, dtype=np.object_)
    tensor = http.InferInput("image", list(array.shape), "BYTES")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def test_tritons_client_finds_server_and_model(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("captioner")
    assert triton.is_model_ready("captioner", VERSION)
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["name"] == "captioner"
    assert triton.get_model_metadata("captioner")["inputs"][0]["datatype"] == "BYTES"
    assert triton.get_model_config("captioner")["output"][1]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_tritons_client_captions(triton: Any, binary: bool, packed: str | None) -> None:
    import tritonclient.http as http

    outputs = [http.InferRequestedOutput(name, binary) for name in ("log_prob", "caption")]
    for wanted in (outputs, None):  # None: all, as bytes
        found = triton.infer(
            "captioner",
            [triton_input(PHOTO, OTHER, binary=binary)],
            outputs=wanted,
            request_id="7",
            parameters={"num_captions": 2},
            timeout=5_000_000,
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
        assert found.get_response()["id"] == "7"
        text, numbers = found.as_numpy("caption"), found.as_numpy("log_prob")
        encoding = bytes if wanted is None or binary else str
        assert [[encoding(one) for one in row] for row in text] == [[b"a dog"] * 2] * 2 or (
            encoding is str and text.tolist() == [["a dog"] * 2] * 2
        )
        assert (numbers.dtype, numbers.tolist()) == (np.float32, [[-1.0, -2.0]] * 2)


def test_a_long_answer_is_packed_for_tritons_client(triton: Any, running: Live) -> None:
    import httpx

    found = triton.infer(
        "captioner",
        [triton_input(*[PHOTO] * 16)],
        parameters={"num_captions": 10},
        response_compression_algorithm="gzip",
    )
    assert found.as_numpy("caption").shape == (16, 10)
    assert found.as_numpy("log_prob")[15].tolist() == [-1.0 - rank for rank in range(10)]
    body = {"inputs": [in_json(*[PHOTO] * 16)], "parameters": {"num_captions": 10}}
    answer = httpx.post(running.url + INFER, json=body)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["outputs"][0]["shape"] == [16, 10]


def test_tritons_client_is_told_what_is_wrong(triton: Any, running: Live) -> None:
    from tritonclient.utils import InferenceServerException

    def refused(model: str, *files: bytes, **more: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            triton.infer(model, [triton_input(*files)], **more)
        return caught.value.status(), caught.value.message()

    status, text = refused("captioner", PHOTO, b"no picture")
    assert (status, text[:9]) == ("400", "image[1]:")
    assert refused("other", PHOTO) == (
        "404",
        "there is no model 'other'; the one that is served is 'captioner'",
    )
    assert refused("captioner", PHOTO, model_version="3")[0] == "404"
    assert refused("captioner", b"\0" * 11_000_000)[0] == "413"
    running.fake.places = 0
    assert refused("captioner", PHOTO) == ("429", "the queue is full")


def test_tritons_client_may_ask_for_several_at_once(running: Live) -> None:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{running.port}", concurrency=4) as client:
        asked = [client.async_infer("captioner", [triton_input(PHOTO)]) for _ in range(8)]
        assert {one.get_result().as_numpy("caption")[0, 0] for one in asked} == {b"a dog"}


def test_tritons_asynchronous_client_captions(running: Live) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")
    from tritonclient.utils import InferenceServerException

    async def ask() -> None:
        async with aio.InferenceServerClient(f"127.0.0.1:{running.port}") as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("captioner")
            assert (await client.get_model_metadata("captioner"))["versions"] == [VERSION]
            for packed in (None, "gzip"):  # None: it takes what it knows to unpack, by itself
                found = await client.infer(
                    "captioner",
                    [triton_input(*[PHOTO] * 16)],
                    parameters={"num_captions": 10},
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                assert (found.as_numpy("caption") == b"a dog").all()
                assert found.as_numpy("log_prob").shape == (16, 10)
            with pytest.raises(InferenceServerException, match=r"image\[0\]: "):
                await client.infer("captioner", [triton_input(b"no picture")])

    asyncio.run(ask())
