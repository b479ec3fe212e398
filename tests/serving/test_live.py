"""The whole service in processes of its own: clients, fuzzed schemas and images, signals, kills."""

import base64
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import captioner

from .conftest import Running, jpeg, make_checkpoint, running

PHOTO = jpeg((120, 90))


def turned(orientation: int) -> bytes:
    """Return the photograph stored turned, with the EXIF orientation that says so."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    with Image.open(io.BytesIO(jpeg((96, 64), format="PNG"))) as image:
        stored = image if undo is None else image.transpose(undo)
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        stored.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_a_photograph_has_one_caption_whatever_the_way(
    live: Running, tiny_checkpoint: Path
) -> None:
    encoded = base64.b64encode(PHOTO).decode()
    (expected,) = captioner.load(tiny_checkpoint).caption([PHOTO])
    url = live.url + "/caption"
    ways = [
        lambda: httpx.post(url, files={"image": PHOTO}, timeout=60),
        lambda: httpx.post(url, content=PHOTO, timeout=60),
        lambda: httpx.post(url, json={"image": encoded}, timeout=60),
    ]
    with ThreadPoolExecutor(6) as threads:
        answers = [one.json() for one in threads.map(lambda way: way(), ways * 5)]
    assert {answer["caption"] for answer in answers} == {expected.text}
    for answer in answers:
        best = answer["captions"][0]
        figures = [best["log_prob"], best["score"]]
        assert figures == pytest.approx([expected.log_prob, expected.score], rel=1e-5)


def test_all_orientations_have_one_caption(live: Running) -> None:
    files = [("image", ("x", turned(orientation))) for orientation in range(1, 9)]
    results = httpx.post(live.url + "/captions", files=files, timeout=60).json()["results"]
    assert len({one["caption"] for one in results}) == 1
    assert {(one["image"]["width"], one["image"]["height"]) for one in results} == {(96, 64)}


def test_the_openai_client_works_unchanged(live: Running) -> None:
    openai = pytest.importorskip("openai")
    url = f"data:image/jpeg;base64,{base64.b64encode(PHOTO).decode()}"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with openai.OpenAI(base_url=live.url + "/v1", api_key="any", max_retries=0) as client:
        model = next(iter(client.models.list())).id
        done = client.chat.completions.create(model=model, messages=messages, n=2)
        assert len({choice.message.content for choice in done.choices}) == 2
        chunks = client.chat.completions.create(model=model, messages=messages, stream=True)
        words = [chunk.choices[0].delta.content for chunk in chunks]
        assert words[0] == done.choices[0].message.content
        messages[0]["content"][0]["image_url"]["url"] = "data:image/png;base64,QUJD"
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=model, messages=messages)
        assert caught.value.status_code == 415
        assert caught.value.code == "unsupported_format"


def test_tritons_client_works_unchanged(live: Running, tiny_checkpoint: Path) -> None:
    http = pytest.importorskip("tritonclient.http")
    photos = np.array([PHOTO, turned(1)], dtype=np.object_)
    expected = captioner.load(tiny_checkpoint).captions(list(photos), num_captions=2)
    tensor = http.InferInput("image", [2], "BYTES").set_data_from_numpy(photos)
    with http.InferenceServerClient(f"127.0.0.1:{live.port}") as client:
        assert client.is_model_ready("captioner")
        found = client.infer("captioner", [tensor], parameters={"num_captions": 2})
    words = [[text.decode() for text in row] for row in found.as_numpy("caption")]
    assert words == [[caption.text for caption in of_one] for of_one in expected]
    numbers = [[caption.log_prob for caption in of_one] for of_one in expected]
    assert found.as_numpy("log_prob") == pytest.approx(np.array(numbers), rel=1e-4)


def _can_be_invalid(operation: Any) -> bool:
    return bool(operation.body or operation.query or operation.headers)


OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


def with_an_image(case: Any) -> Any:
    """Return a generated request with what no schema can say: which bytes are a photograph, that
    captions are at most as many as the beam holds, and what a model's words are and go with.
    """
    encoded = base64.b64encode(PHOTO).decode()
    if "/chat/" in case.path:
        part = {"type": "image_url", "image_url": f"data:image/jpeg;base64,{encoded}"}
        case.body = {**case.body, "messages": [{"role": "user", "content": [part]}]}
    elif case.path.startswith("/v2/"):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}
        case.body, case.headers = {"inputs": [tensor]}, {}
        case.media_type = "application/json"
    elif case.media_type == "multipart/form-data":
        several = isinstance(case.body["image"], list)
        photos = [PHOTO] * len(case.body["image"]) if several else PHOTO
        case.body = {**case.body, "image": photos}
    elif case.media_type == "application/json":
        case.body = {**case.body, "image": encoded}
    elif case.media_type is not None:
        case.body = PHOTO
    options = [one for one in (case.query, case.body) if isinstance(one, dict)]
    left_out = ["include", "exclude", "diverse_groups", "diversity", "sample", *OF_SAMPLING]
    if case.path.startswith("/v2/"):
        left_out.append("attention")  # no tensor
    for one in options:
        for name in left_out:
            one.pop(name, None)
    beams = ("beam_size", "num_captions")
    given = {name: int(one[name]) for one in options for name in beams if name in one}
    if given.get("num_captions", 1) > given.get("beam_size", 10):
        for one in options:
            one.pop("beam_size", None)
    return case


@pytest.mark.timeout(600)  # most of it is for making up requests, on a machine that may be busy
def test_no_request_that_the_schema_allows_or_forbids_breaks_it(live: Running) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    # What bytes are an image, no schema can say: those that are refused as none are no finding.
    # With a photograph in their place every request must be answered.
    excluded = [CHECKS.get_one("positive_data_acceptance")]
    replaced = [CHECKS.get_one("negative_data_rejection")]  # it takes a photograph for no string
    schema = schemathesis.openapi.from_url(live.url + "/openapi.json")
    end = time.monotonic() + 20
    seen: set[str] = set()

    for result in schema.get_all_operations():
        operation = result.ok()
        valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        invalid = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @given(case=valid | invalid if _can_be_invalid(operation) else valid)
        @CASES
        def check(case: Any) -> None:
            if time.monotonic() < end:
                case.call_and_validate(excluded_checks=excluded, timeout=30)

        @given(case=valid.map(with_an_image))
        @CASES
        def check_answered(case: Any) -> None:
            if time.monotonic() < end:
                answer = case.call_and_validate(excluded_checks=replaced, timeout=30)
                assert answer.status_code == 200, answer.text

        check()
        if operation.body and time.monotonic() < end:
            check_answered()
        seen.add(operation.path)
    assert {
        *("/caption", "/captions", "/v1/chat/completions", "/metrics"),
        "/v2/models/captioner/infer",
    } <= seen


CASES = settings(
    max_examples=4,
    derandomize=True,  # red or green must not be a matter of luck
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


ORIGINALS = [
    jpeg((40, 30), format=name, **options)
    for name, options in (
        ("JPEG", {"progressive": True}),
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
    )
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw an image with bytes changed, cut out, doubled or missing at the end."""
    data = bytearray(draw(st.sampled_from(ORIGINALS)))
    source = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 8))):
        place = source.randrange(len(data) + 1)
        match source.randrange(4):
            case 0:
                data[place : place + 1] = bytes([source.randrange(256)])
            case 1:
                del data[place : place + source.randrange(1, 64)]
            case 2:
                data[place:place] = data[place : place + source.randrange(1, 64)]
            case _:
                data[place : place + 4] = source.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]
                )
    return bytes(data)


def test_mutated_images_are_answered_or_refused(live: Running) -> None:
    with httpx.Client(base_url=live.url, timeout=60) as client:
        end = time.monotonic() + 15

        @given(data=mutated())
        @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
        def check(data: bytes) -> None:
            if time.monotonic() < end:
                answer = client.post("/caption", content=data, headers={"content-type": "image/x"})
                assert answer.status_code in (200, 413, 415, 422), (answer.text, data)

        check()
    assert live.status("/health/ready") == 200


class Load:
    """Clients that ask again and again, and what became of each request."""

    def __init__(self, url: str, clients: int = 4, *, patience: float = 60) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._url = url
        self._patience = patience
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._is_over.is_set():
            try:
                with httpx.Client(timeout=self._patience) as client:
                    answer = client.post(self._url + "/caption", content=PHOTO)
                self.statuses.append(answer.status_code)
                if answer.status_code == 503:
                    time.sleep(0.05)
            except httpx.ConnectError:  # nobody listens: nothing was accepted
                time.sleep(0.05)
            except httpx.TransportError as problem:
                self.failures.append(repr(problem))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority")
def test_only_the_threads_of_the_model_are_nicer(tiny_checkpoint: Path) -> None:
    options = ("--decode-workers", "1", "--threads", "1", "--model-nice", "3")
    with running("--checkpoint", str(tiny_checkpoint), *options) as service:
        service.wait_until_ready()
        assert httpx.post(service.url + "/caption", content=jpeg()).status_code == 200
        tasks = Path(f"/proc/{service.process.pid}/task").iterdir()
        found = {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert found == {own, own + 3}


def test_a_checkpoint_is_swapped_by_a_signal_and_all_requests_are_answered_at_the_end(
    tmp_path: Path,
) -> None:
    folder = make_checkpoint(tmp_path / "best")
    with running("--checkpoint", str(folder), "--decode-workers", "1", "--threads", "1") as service:
        service.wait_until_ready()
        first = service.events("model loaded")[0]["hash"]
        with Load(service.url) as load:
            make_checkpoint(folder, seed=1)
            service.process.send_signal(signal.SIGHUP)
            service.wait_for(lambda: service.events("model loaded")[1:] or None)
            answer = httpx.post(service.url + "/caption", content=PHOTO, timeout=60).json()
            assert answer["model"]["hash"] != first
            (folder / "decoder.safetensors").write_bytes(b"x")
            service.process.send_signal(signal.SIGHUP)
            found = service.wait_for(lambda: service.events("reload failed") or None)
            assert "decoder.safetensors" in found[0]["reason"]
            assert httpx.post(service.url + "/caption", content=PHOTO, timeout=60).is_success
            assert set(load.statuses) == {200}
            service.process.send_signal(signal.SIGTERM)
            service.wait_for(lambda: True if service.status("/health/ready") != 200 else None)
            assert service.wait() == 0, service.errors
        assert load.failures == []
        assert set(load.statuses) <= {200, 503}


@pytest.fixture
def pair(tiny_checkpoint: Path) -> Iterator[Running]:
    with running(
        *("--checkpoint", str(tiny_checkpoint), "--workers", "2", "--decode-workers", "1"),
        environ={"CAPTIONER_DRAIN_SECONDS": "20"},
    ) as service:
        service.wait_for(lambda: True if len(service.events("model loaded")) == 2 else None)
        service.wait_until_ready()
        yield service


def test_a_killed_worker_is_replaced_and_counted_metrics_stay(pair: Running) -> None:
    with ThreadPoolExecutor(4) as threads:
        ask = threads.map(
            lambda _: httpx.post(pair.url + "/caption", content=PHOTO, timeout=60), range(12)
        )
        assert [answer.status_code for answer in ask] == [200] * 12
    victim = pair.events("listening")[0]["pid"]
    with Load(pair.url, clients=2) as load:
        os.kill(victim, signal.SIGKILL)
        pair.wait_for(lambda: True if len(pair.events("model loaded")) == 3 else None)
        time.sleep(0.5)
    assert len(load.failures) <= 2, "only what the dead worker had in hand may fail"
    assert set(load.statuses) <= {200, 503}
    text = httpx.get(pair.url + "/metrics", timeout=60).text
    count = re.search(
        r'http_requests_total{method="POST",route="/caption",status="200"} (\S+)', text
    )
    assert float(count[1]) >= 12 + load.statuses.count(200) - 2
    assert pair.stop() == 0, pair.errors
    for line in pair.events("listening"):
        with pytest.raises(ProcessLookupError):
            os.kill(line["pid"], 0)


def test_workers_end_with_their_supervisor(pair: Running) -> None:
    pids = [line["pid"] for line in pair.events("listening")]
    pair.process.kill()
    end = time.monotonic() + 60
    while pids and time.monotonic() < end:
        for pid in list(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                continue
            pids.remove(pid)
        time.sleep(0.1)
    assert pids == []


def test_a_damaged_checkpoint_ends_the_start_with_one_line(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(tiny_checkpoint, tmp_path / "best")
    (damaged / "encoder.safetensors").write_bytes(b"")
    with running("--checkpoint", str(damaged)) as service:
        assert service.wait() == 2
    (line,) = service.errors
    assert line.startswith("error: ")
    assert "encoder.safetensors" in line
