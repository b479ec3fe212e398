"""A request's way to its captions, whichever interface it came by.

A request that cannot be answered in time is refused before its body is read. Otherwise the body is
read (`receive`), the request takes its places in the queue, its images are decoded in other
processes (`decode_image`) and wait for their batch (`caption_decoded`; `batching.py` continues from
there). If the client disconnects, the request is dropped at any stage.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from captioner.sandbox.decode_pool import DecodedImage
from captioner.search_config import SearchConfig
from serving.admission import Ticket
from serving.back_end import Outcome
from serving.errors import ClientGone, DeadlineExceeded, ModelChanged
from serving.routes.request_options import TIMEOUT_HEADER, check_words, timeout_of
from serving.routes.response_models import Captioned
from serving.service import Service
from serving.telemetry.tracing import note, stage

Result = TypeVar("Result")


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request, most_seconds: float | None = None) -> float:
    """Return when the request's time is over, on the clock of the event loop.

    `most_seconds` is what the request's body grants itself.
    """
    limit = service_of(request).settings.request_timeout_seconds
    seconds = timeout_of(request.headers.get(TIMEOUT_HEADER), limit)
    if most_seconds is not None:
        seconds = min(seconds, most_seconds)
    passed = time.perf_counter() - request.state.started
    return asyncio.get_running_loop().time() + seconds - passed


async def receive(
    request: Request, deadline: float, read: Callable[[Request], Awaitable[Result]]
) -> Result:
    """Return what `read` makes of the body, which must arrive before the deadline.

    It is not read where the request would be refused for want of room; raises as
    `Service.check_room`.

    Raises:
        DeadlineExceeded: the body did not arrive in time.
    """
    service = service_of(request)
    service.check_room(deadline)
    started = time.perf_counter()
    try:
        async with asyncio.timeout_at(deadline):
            with stage("receive"):
                result = await read(request)
    except TimeoutError:
        raise DeadlineExceeded("the body had not arrived when the time was over") from None
    service.metrics.stage("receive", time.perf_counter() - started)
    return result


async def caption_upload(
    request: Request, deadline: float, data: bytes, config: SearchConfig
) -> Captioned:
    """Return the captions of a request's one image; raise as `Service.admit` and `caption_image`.

    Raises:
        Problem: the model does not know a word that is asked for.
        ClientGone: the client hung up.
    """
    service = service_of(request)
    with service.admit(deadline) as ticket:
        check_words(config, ticket.model.vocabulary)
        work = caption_image(service, ticket, data, config)
        captioned = await unless_disconnected(request, work)
    outcome, header = captioned.outcome, captioned.image.header
    request.state.notes.update(
        image=f"{header.format} {header.width}x{header.height}",
        batch=outcome.batch_size,
        queue_ms=round(outcome.queue_seconds * 1000, 2),
        decode_ms=round(captioned.image.seconds * 1000, 2),
        model=outcome.model.hash[:12],
    )
    return captioned


async def caption_image(
    service: Service, ticket: Ticket, data: bytes, config: SearchConfig
) -> Captioned:
    """Return the captions of one image in a file's bytes; raise as the two parts of this.

    Several images of one request can be in different parts.
    """
    image = await decode_image(service, ticket, data)
    return await caption_decoded(service, ticket, data, image, config)


async def decode_image(service: Service, ticket: Ticket, data: bytes) -> DecodedImage:
    """Return one image of a request, decoded in another process.

    Raises:
        ImageRejected: it is no image that may be decoded.
        DeadlineExceeded: there was not enough time.
    """
    service.metrics.upload_bytes.observe(len(data))
    with stage("decode"):
        image = await service.pool.decode(
            data, preprocessing=ticket.model.preprocessing, deadline=ticket.deadline
        )
    service.metrics.stage("decode", image.seconds)
    return image


async def caption_decoded(
    service: Service, ticket: Ticket, data: bytes, image: DecodedImage, config: SearchConfig
) -> Captioned:
    """Return the captions of one image decoded from `data`, from the batch that it becomes part of.

    Where another model has taken the place of the ticket's, the image is decoded anew for that one.

    Raises:
        CaptioningFailed: the model failed at it.
        DeadlineExceeded: there was not enough time.
        Problem: the model that took the place does not know a word that is asked for.
    """
    while True:
        try:
            outcome = await _outcome(service, ticket, image, config)
        except ModelChanged as changed:
            ticket = ticket.on(changed.model)
            check_words(config, ticket.model.vocabulary)
            image = await decode_image(service, ticket, data)
        else:
            return Captioned(image, outcome)


async def _outcome(
    service: Service, ticket: Ticket, image: DecodedImage, config: SearchConfig
) -> Outcome:
    with stage("model"):
        outcome = await service.batcher.submit(ticket, image.pixels, config)
        note(
            batch_size=outcome.batch_size,
            queue_seconds=outcome.queue_seconds,
            encode_seconds=outcome.encode_seconds,
            search_seconds=outcome.search_seconds,
        )
    return outcome


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`, which is cancelled as soon as the client hangs up.

    Raises:
        ClientGone: the client did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
