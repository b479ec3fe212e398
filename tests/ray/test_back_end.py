"""The application beside replicas that die, refuse or have another model; without a cluster."""

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml

from captioner.encoder.preprocessing import Preprocessing
from captioner.search_config import SearchConfig
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from serving.errors import (
    CaptioningFailed,
    DeadlineExceeded,
    ModelChanged,
    NotReady,
    Overloaded,
)
from serving.model import ServedModel

pytest.importorskip("ray.serve.schema")  # which warns when it is imported
ray_back_end = importlib.import_module("serving.ray_back_end")
ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.zeros((8, 8, 3), np.uint8)


def served(name: str) -> ServedModel:
    return ServedModel(
        name=name,
        hash=name * 8,
        folder=Path(name),
        loaded_at=0.0,
        vocabulary=Vocabulary((*SPECIAL_TOKENS, "dog")),
        preprocessing=Preprocessing(),
    )


REPLY = ray_back_end.Reply([], 0.1, 0.2, 0.3, 4)


class Response:
    """A response of a handle: a value, an error, or nothing for ever."""

    def __init__(self, says: Any) -> None:
        self._says = says
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        if self._says is None:
            await asyncio.sleep(60)
        if isinstance(self._says, Exception) and not isinstance(self._says, CaptioningFailed):
            raise self._says
        return self._says

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A handle whose replicas say one thing after the other."""

    def __init__(self, *says: Any) -> None:
        self._says = list(says)
        self.asked: list[Response] = []
        self.caption = self

    def remote(self, *_: Any) -> Response:
        self.asked.append(Response(self._says.pop(0)))
        return self.asked[-1]


class Nobody:
    def queue_depth(self, _: int) -> None: ...
    def queue_wait(self, _: float) -> None: ...
    def batch(self, _: int) -> None: ...
    def stage(self, *_: Any) -> None: ...


def died() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def full() -> Exception:
    from ray.serve.exceptions import BackPressureError

    return BackPressureError(9, 8, retry_after_s=3)


def submitting(
    handle: Handle, then: Callable[[Any, Any], Awaitable[None]], *, seconds: float = 60
) -> None:
    """Run `then` with a batcher on the handle and the coroutine of a submitted image."""

    async def inside() -> None:
        news: list[ServedModel] = []
        batcher = ray_back_end.RayBatcher(handle, served("a"), 1, Nobody(), news.append)
        batcher.news = news
        with batcher.admit(asyncio.get_running_loop().time() + seconds) as ticket:
            with pytest.raises(Overloaded):
                batcher.check(asyncio.get_running_loop().time() + seconds)
            await then(batcher, batcher.submit(ticket, PIXELS, SearchConfig()))
        batcher.check(asyncio.get_running_loop().time() + seconds)  # the place was given back

    asyncio.run(inside())


@pytest.mark.parametrize("deaths", [0, 1, 4])
def test_an_image_whose_replica_died_is_asked_for_again(deaths: int) -> None:
    handle = Handle(*(died() for _ in range(deaths)), REPLY)

    async def then(batcher: Any, submitted: Any) -> None:
        outcome = await submitted
        assert (outcome.batch_size, outcome.model) == (4, batcher.model)

    submitting(handle, then)
    assert len(handle.asked) == deaths + 1


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ([died() for _ in range(5)], NotReady),
        ([full()], Overloaded),
        ([CaptioningFailed("the model failed at this image: nan")], CaptioningFailed),
    ],
    ids=["all die", "full", "failed"],
)
def test_what_replicas_cannot_do_has_its_error(says: list[Any], error: type[Exception]) -> None:
    async def then(_: Any, submitted: Any) -> None:
        with pytest.raises(error):
            await submitted

    submitting(Handle(*says), then)


def test_another_model_takes_the_place_of_the_first() -> None:
    async def then(batcher: Any, submitted: Any) -> None:
        with pytest.raises(ModelChanged) as caught:
            await submitted
        assert caught.value.model is batcher.model is batcher.news[0]
        assert batcher.model.name == "b"

    submitting(Handle(served("b")), then)


def test_at_the_deadline_the_replica_is_told_to_stop() -> None:
    handle = Handle(None)

    async def then(_: Any, submitted: Any) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await submitted
        assert time.monotonic() - began < 30

    submitting(handle, then, seconds=0.1)
    assert handle.asked[0].is_cancelled


def test_bad_settings_are_named_in_one_line_each() -> None:
    from serving.ray_app import BadInput, app

    with pytest.raises(BadInput) as caught:
        app({"max_bach": 4})
    assert caught.value.exit_code == 2
    assert "max_bach is no setting" in str(caught.value)
    with pytest.raises(click.ClickException) as both:
        app({"max_batch": "no number", "checkpoint": "/nowhere"})
    assert len(str(both.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"max_batch": "x", "workers": 0, "foo": 1},
            ["foo is no setting", "workers is 0; give", "max_batch is 'x'; give a whole number"],
        ),
        ({"rate_limit": 60}, ["rate_limit is '60'; give requests per time, such as 60/minute"]),
        ({"no_auth": "maybe"}, ["no_auth is 'maybe'; give true or false"]),
        ({"engine": "foo"}, ["engine is 'foo'; choose one of torch"]),
        ({"device": "foo"}, ["device is 'foo'; give auto"]),
        ({"checkpoint": "/"}, ["which holds neither model.json nor deployable.json"]),
    ],
)
def test_every_bad_setting_is_named_as_it_is_given(
    arguments: dict[str, Any], words: list[str]
) -> None:
    from serving.ray_app import BadInput, app

    with pytest.raises(BadInput) as caught:
        app(arguments)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line
        assert not line.startswith("--")


def test_a_misspelt_variable_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from serving.ray_app import app

    monkeypatch.setenv("CAPTIONER_MAX_BACH", "3")
    app({})
    assert "CAPTIONER_MAX_BACH is no setting of the service" in capsys.readouterr().err


def test_the_configurations_are_those_that_ray_knows_and_the_same() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving.ray_app import app

    config = yaml.safe_load((ROOT / "deploy" / "ray_serve.yml").read_text())
    manifest = yaml.safe_load((ROOT / "deploy" / "ray_service.yml").read_text())
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == config
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "serving.ray_app:app"
    given = {name: value for name, value in application.args.items() if name != "checkpoint"}
    built = app(given)._bound_deployment
    names = {built.name, *(one.name for one in application.deployments)}
    assert names == {"ingress", "model"}


def test_who_lost_a_replica_of_the_ingress_is_told_to_come_again() -> None:
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    from serving.ray_proxy import LostReplica, middleware

    async def dies(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        await receive()

    (added,) = middleware()
    assert added.cls is LostReplica
    answer = TestClient(LostReplica(dies)).post("/caption", headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["request_id"] == "mine"
    whole = TestClient(LostReplica(PlainTextResponse("whole")))
    assert whole.get("/").text == "whole"
