"""The service on Ray Serve: the same application as ingress, the model in replicas of its own.

    serve run serving.ray_app:app checkpoint=runs/flickr8k/best
    serve deploy deploy/ray_serve.yml

An ingress replica has the routes, access control, limits and the decoding processes, and needs no
weights. A replica of the model has nothing else; Ray makes its batches, adds and removes replicas
with the load, and replaces those that are not healthy. `docs/ray_serve.md` says how to set it up,
and what a proxy in front of it has to do.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from captioner.errors import CaptionerError, OptionError
from captioner.extras import needing
from captioner.search_config import SearchConfig
from serving.app import create_app
from serving.batching import failure_at
from serving.errors import CaptioningFailed
from serving.local_back_end import LocalBackEnd, window_seconds
from serving.model import ServedModel, captions_of_batch
from serving.ray_back_end import RayBackEnd, Reply
from serving.service import Service
from serving.settings import Settings, is_loopback, unknown_variables
from serving.startup import BAD_INPUT, check_checkpoint
from serving.telemetry.logs import configure_logs

with needing("ray", "the service on Ray Serve"):
    import click
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.handle import DeploymentHandle

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STARTS = 3  # of a replica, before a deployment has failed and the one before it stays
STUCK_BATCHES = 2  # times the time of a request: a batch that takes longer will never end


class Replica:
    """One copy of the model, and the batches that it captions."""

    def __init__(self, settings: Settings) -> None:
        """Load the model for the processors or the GPU that Ray gave to this replica."""
        configure_logs(settings.log_level)
        assigned = ray.get_runtime_context().get_assigned_resources()
        threads = settings.threads or max(1, int(assigned.get("CPU", 1)))
        back_end = LocalBackEnd(replace(settings, threads=threads))
        self._model = back_end.load()
        self._threads = ThreadPoolExecutor(back_end.lanes, thread_name_prefix="model")
        self._longest_seconds = STUCK_BATCHES * settings.request_timeout_seconds
        self._began: set[float] = set()  # of batches that run
        batched: Any = serve.batch(  # its types know functions of one argument alone
            max_batch_size=settings.max_batch,
            batch_wait_timeout_s=window_seconds(settings),
            max_concurrent_batches=back_end.lanes,
        )
        self._batched = batched(self._caption_batch)

    async def describe(self) -> ServedModel:
        """Return what requests need to know of the model."""
        return self._model.without_weights()

    async def caption(
        self, model_hash: str, pixels: np.ndarray, config: SearchConfig
    ) -> Reply | ServedModel | CaptioningFailed:
        """Return the captions of an image that was prepared for the model with this hash.

        Where this replica has another model, that is what it returns.
        """
        if model_hash != self._model.hash:
            return self._model.without_weights()
        reply: Reply | CaptioningFailed = await self._batched(pixels, config, time.perf_counter())
        return reply

    def check_health(self) -> None:
        """Raise where a batch has run for so long that it will never end; Ray asks, and acts."""
        oldest = min(self._began, default=None)
        if oldest is not None and time.perf_counter() - oldest > self._longest_seconds:
            raise RuntimeError(f"a batch has run for more than {self._longest_seconds:g} seconds")

    async def _caption_batch(
        self, pixels: list[np.ndarray], configs: list[SearchConfig], since: list[float]
    ) -> list[Reply | CaptioningFailed]:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        self._began.add(began)
        try:
            found, encoding, searching = await loop.run_in_executor(
                self._threads, captions_of_batch, self._model, pixels, configs
            )
        except Exception as problem:  # whatever the network says to an image
            if len(pixels) == 1:
                return [failure_at(problem)]
            alone = zip(pixels, configs, since, strict=True)
            return [(await self._caption_batch([a], [b], [c]))[0] for a, b, c in alone]
        finally:
            self._began.discard(began)
        return [
            Reply(captions, began - came, encoding, searching, len(pixels))
            for captions, came in zip(found, since, strict=True)
        ]


@serve.ingress()
class Ingress:
    """The application, without a model: it asks the replicas for captions."""

    def __init__(self, settings: Settings, replicas: "DeploymentHandle[Any]") -> None:
        configure_logs(settings.log_level)
        _check_address(settings)
        self._settings = settings
        back_end = RayBackEnd(replicas, places=settings.queue_size)
        # Ray sends requests as soon as the application has started: then it has to be ready.
        self._service = Service(settings, back_end, loads_first=True)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray asks for it once."""
        application = create_app(self._settings, self._service)
        application.add_middleware(_LeavesIdToRay)
        if self._settings.trusted_proxies:
            application.add_middleware(
                ProxyHeadersMiddleware, trusted_hosts=list(self._settings.trusted_proxies)
            )
        return application

    def check_health(self) -> None:
        """Raise where this process will never serve; Ray asks, and starts another."""
        if self._service.failure is not None:
            raise self._service.failure


def app(arguments: Mapping[str, Any]) -> "serve.Application":
    """Return the application for `serve run` and `serve deploy`; arguments are settings by name.

    What is not among them, the variables CAPTIONER_… say, as for `captioner serve`.

    Raises:
        BadInput: a setting is bad, or there is none of that name.
    """
    try:
        settings = _settings(arguments)
    except CaptionerError as error:
        raise BadInput("\n".join(getattr(error, "problems", None) or [str(error)])) from None
    is_gpu = settings.device.startswith(("cuda", "auto"))
    replicas = serve.deployment(
        name="model",
        ray_actor_options={"num_cpus": 1, "num_gpus": 1} if is_gpu else {"num_cpus": 1},
        max_ongoing_requests=4 * settings.max_batch,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": settings.max_batch,
        },
        **_lifetime(settings),
    )(Replica)
    ingress = serve.deployment(
        name="ingress",
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=2 * settings.queue_size,  # the application refuses what is too much
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": max(1, settings.queue_size // 2),
        },
        **_lifetime(settings),
    )(Ingress)
    return ingress.bind(settings, replicas.bind(settings))


class BadInput(click.ClickException):
    """What `serve run` says in one line, and ends with the status of a wrong use."""

    exit_code = BAD_INPUT


def _settings(arguments: Mapping[str, Any]) -> Settings:
    """Return the settings as every node can take them: an absolute path, and hashes of the keys."""
    known = {one.name for one in fields(Settings)}
    problems = [
        f"{name} is no setting; captioner serve --help lists them"
        for name in sorted(set(arguments) - known)
    ]
    given = {name: _as_text(value) for name, value in arguments.items() if name in known}
    try:
        settings = Settings.from_environment(os.environ, given=given, given_by_flags=False)
        check_checkpoint(settings)
    except OptionError as error:
        raise OptionError(*problems, *error.problems) from None
    if problems:
        raise OptionError(*problems)
    for name in unknown_variables(os.environ):
        print(f"warning: {name} is no setting of the service", file=sys.stderr)
    return replace(
        settings,
        checkpoint=settings.checkpoint_folder().resolve(),
        api_keys=settings.keys,
        api_keys_file=None,
    )


def _as_text(value: Any) -> Any:
    """Return a value of a command line or of YAML as text; None stays, and counts as none."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return None if value is None else str(value)


def _lifetime(settings: Settings) -> dict[str, Any]:
    """Return how replicas begin and end."""
    return {
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "max_constructor_retry_count": STARTS,
        "max_surge_percent": 100,  # in an update the new ones are there before the old ones go
    }


def _check_address(settings: Settings) -> None:
    """Raise OptionError where others can reach Ray's proxy and nobody said that they may."""
    client = _get_global_client()
    host = None if client is None else client.http_config.host
    if not (host is None or is_loopback(host) or settings.has_keys or settings.no_auth):
        raise OptionError(
            f"http_options.host is {host!r}, which others can reach, and there are no keys; set "
            "CAPTIONER_API_KEYS on every node, or give no_auth: true if everybody may use the "
            "service"
        )


class _LeavesIdToRay:
    """Middleware that leaves the header X-Request-ID to Ray's proxy, which adds the same."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_without_id(message: "Message") -> None:
            if message["type"] == "http.response.start":
                kept = [one for one in message["headers"] if one[0] != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, send_without_id)
