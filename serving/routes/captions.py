"""Caption routes: `POST /caption` for one image, `POST /captions` for several.

A request that cannot be answered in time is refused before its body is read. Otherwise the body is
read (`receive_upload`), the request takes its place in the queue, its image is decoded in another
process and waits for its batch (`caption_image`; `batching.py` continues from there). If the client
disconnects, the request is dropped at any stage.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from captioner.errors import CaptionerError
from captioner.search_config import SearchConfig
from serving.access import Access, access
from serving.batching import Ticket
from serving.errors import ClientGone, DeadlineExceeded
from serving.header_gate import takes_places
from serving.problems import Problem, problem_of
from serving.routes.openapi_responses import (
    BINARY,
    COMMON_CODES,
    EXAMPLE_IMAGE,
    IMAGE_CODES,
    IMAGE_ENCODING,
    problems,
    route_name,
)
from serving.routes.request_options import (
    BOOLEANS,
    SWITCHES,
    TIMEOUT_HEADER,
    WORD_LISTS,
    OptionFields,
    check_words,
    options_of,
    timeout_of,
)
from serving.routes.response_models import BatchAnswer, CaptionAnswer, Captioned, caption_answer
from serving.routes.uploads import Upload, read_upload
from serving.service import Service
from serving.telemetry.tracing import note, stage

MOST_IMAGES = 16
Result = TypeVar("Result")

log = structlog.get_logger("serving.captions")
router = APIRouter(tags=["captions"], generate_unique_id_function=route_name)

Options = Annotated[OptionFields, Query()]
_JSON_OPTIONS = OptionFields.model_json_schema()["properties"]
_FORM_OPTIONS = {
    **_JSON_OPTIONS,
    **{
        name: {**_JSON_OPTIONS[name], "type": "string", "enum": [*BOOLEANS], "default": "false"}
        for name in SWITCHES
    },
    **{
        name: {
            "type": "string",
            "description": f"{_JSON_OPTIONS[name]['description'][:-1]}, between commas.",
            "default": "",
        }
        for name in WORD_LISTS
    },
}
_IMAGE_TEXT = {
    "type": "string",
    "description": "The file as base64, or a `data:` URL of base64.",
    "examples": [EXAMPLE_IMAGE],
}


def _with(options: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"image": image, **options},
        "required": ["image"],
        "additionalProperties": False,
    }


ONE_IMAGE = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _with(_FORM_OPTIONS, BINARY), "encoding": IMAGE_ENCODING},
        "application/json": {
            "schema": _with(_JSON_OPTIONS, _IMAGE_TEXT),
            "example": {"image": EXAMPLE_IMAGE, "num_captions": 3},
        },
        "application/octet-stream": {"schema": BINARY},
        "image/*": {"schema": BINARY},
    },
}
SEVERAL_IMAGES = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": _with(
                _FORM_OPTIONS,
                # An empty file is an error of its own, not of the request: no minLength here.
                {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "minItems": 1,
                    "maxItems": MOST_IMAGES,
                },
            ),
            "encoding": IMAGE_ENCODING,
        }
    },
}


@router.post(
    "/caption",
    summary="Caption one image",
    response_model=CaptionAnswer,
    responses=problems(*IMAGE_CODES, *COMMON_CODES),
    openapi_extra={"requestBody": ONE_IMAGE},
)
@access(Access.KEY)
@takes_places
async def caption(request: Request, query: Options) -> JSONResponse:
    """Send the image as the field `image` (or `file`) of a form, as the body itself, or as JSON.

    Options may stand in the query, in the form or in the JSON. What the image is, its content
    decides. The same image always gets the same caption, unless it is drawn without a seed. The
    header `X-Request-Timeout` may give the request fewer seconds than it would have.
    """
    service = service_of(request)
    deadline = deadline_of(request)
    upload = await receive_upload(request, deadline)
    config, attention = options_of(query, upload, longest_caption=service.settings.longest_caption)
    captioned = await caption_upload(request, deadline, upload.images[0], config)
    return JSONResponse(_answer(request, captioned, attention=attention))


@router.post(
    "/captions",
    summary="Caption several images",
    response_model=BatchAnswer,
    responses=problems("missing_file", "unsupported_format", *COMMON_CODES),
    openapi_extra={"requestBody": SEVERAL_IMAGES},
)
@access(Access.KEY)
@takes_places
async def captions(request: Request, query: Options) -> JSONResponse:
    """Send up to 16 images in one form, all in fields `image`; each gets a result or an error."""
    service = service_of(request)
    deadline = deadline_of(request)
    upload = await receive_upload(request, deadline, most_images=MOST_IMAGES)
    config, attention = options_of(query, upload, longest_caption=service.settings.longest_caption)
    with service.admit(deadline, images=len(upload.images)) as ticket:
        check_words(config, ticket.model.captioner.vocabulary)
        work = [
            _entry(request, ticket, index, data, config, attention=attention)
            for index, data in enumerate(upload.images)
        ]
        results = await unless_disconnected(request, asyncio.gather(*work))
    request.state.notes["images"] = len(results)
    return JSONResponse({"results": results, "request_id": request.state.request_id})


async def _entry(
    request: Request,
    ticket: Ticket,
    index: int,
    data: bytes,
    config: SearchConfig,
    *,
    attention: bool,
) -> dict[str, Any]:
    """Return the result or the error of one image of several."""
    try:
        if not data:
            raise Problem("missing_file", "this field of the form is empty")
        captioned = await caption_image(service_of(request), ticket, data, config)
    except (Problem, CaptionerError) as error:
        problem = problem_of(error)
        if problem.code == "internal_error":
            log.exception("failed", request_id=request.state.request_id)
        return {"index": index, "error": problem.body(request.state.request_id, request.url.path)}
    return {"index": index, **_answer(request, captioned, attention=attention)}


def _answer(request: Request, captioned: Captioned, *, attention: bool) -> dict[str, Any]:
    return caption_answer(
        captioned,
        attention=attention,
        total_seconds=time.perf_counter() - request.state.started,
        request_id=request.state.request_id,
    )


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
        check_words(config, ticket.model.captioner.vocabulary)
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
    """Return the captions of one image in a file's bytes.

    Raises:
        ImageRejected: it is no image that may be decoded.
        DeadlineExceeded: there was not enough time.
    """
    metrics = service.metrics
    metrics.upload_bytes.observe(len(data))
    preprocessing = ticket.model.captioner.preprocessing
    with stage("decode"):
        image = await service.pool.decode(
            data, preprocessing=preprocessing, deadline=ticket.deadline
        )
    metrics.stage("decode", image.seconds)
    with stage("model"):
        outcome = await service.batcher.submit(ticket, image.pixels, config)
        note(
            batch_size=outcome.batch_size,
            queue_seconds=outcome.queue_seconds,
            encode_seconds=outcome.encode_seconds,
            search_seconds=outcome.search_seconds,
        )
    return Captioned(image, outcome)


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request) -> float:
    """Return when the request's time is over, on the clock of the event loop."""
    limit = service_of(request).settings.request_timeout_seconds
    seconds = timeout_of(request.headers.get(TIMEOUT_HEADER), limit)
    passed = time.perf_counter() - request.state.started
    return asyncio.get_running_loop().time() + seconds - passed


async def receive_upload(
    request: Request, deadline: float, *, most_images: int = 1, ignores_fields: bool = False
) -> Upload:
    """Return what the body holds, which must arrive before the deadline.

    It is not read where the request would be refused for want of room.
    """
    service = service_of(request)
    service.check_room(deadline)
    async with received_before(deadline):
        started = time.perf_counter()
        with stage("receive"):
            upload = await read_upload(
                request, most_images=most_images, ignores_fields=ignores_fields
            )
    service.metrics.stage("receive", time.perf_counter() - started)
    return upload


@asynccontextmanager
async def received_before(deadline: float) -> AsyncIterator[None]:
    """A context that ends with `DeadlineExceeded` at `deadline`."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the body had not arrived when the time was over") from None


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
