"""The routes of our own: `POST /caption` for one image and `POST /captions` for several.

A request that has no chance is refused before its body is read; one whose body is there gets its
place in the queue, is decoded in another process, waits for its batch, and is dropped at whatever
stage it is in when its client hangs up.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from captioner.errors import CaptionerError
from serving.batching import Ticket
from serving.errors import DeadlineExceeded
from serving.model import CaptionOptions
from serving.problems import Problem, problem_of
from serving.routes.openapi_responses import (
    BINARY,
    COMMON_CODES,
    EXAMPLE_IMAGE,
    IMAGE_CODES,
    IMAGE_ENCODING,
    problems,
)
from serving.routes.request_options import (
    BOOLEANS,
    TIMEOUT_HEADER,
    OptionFields,
    options_of,
    timeout_of,
)
from serving.routes.response_models import BatchAnswer, CaptionAnswer, caption_answer
from serving.routes.uploads import ClientGone, Upload, read_upload
from serving.service import Captioned, Service
from serving.telemetry.tracing import stage

MOST_IMAGES = 16
Result = TypeVar("Result")

log = structlog.get_logger("serving.captions")
router = APIRouter(tags=["captions"])

Options = Annotated[OptionFields, Query()]
_JSON_OPTIONS = OptionFields.model_json_schema()["properties"]
_FORM_OPTIONS = {
    **_JSON_OPTIONS,
    "attention": {"type": "string", "enum": [*BOOLEANS], "default": "false"},
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
async def caption(request: Request, query: Options) -> JSONResponse:
    """Send the image as the field `image` (or `file`) of a form, as the body itself, or as JSON.

    Options may stand in the query, in the form or in the JSON. What the image is, its content
    decides. The same image always gets the same caption. The header `X-Request-Timeout` may give
    the request fewer seconds than it would have.
    """
    service = service_of(request)
    deadline = deadline_of(request)
    upload = await received(request, deadline)
    options = options_of(query, upload, longest_caption=service.settings.longest_caption)
    with service.admit(deadline) as ticket:
        captioned = await unless_gone(request, service.caption(ticket, upload.images[0], options))
    note(request, captioned)
    return JSONResponse(
        caption_answer(
            captioned,
            attention=options.attention,
            total_seconds=time.perf_counter() - request.state.started,
            request_id=request.state.request_id,
        )
    )


@router.post(
    "/captions",
    summary="Caption several images",
    response_model=BatchAnswer,
    responses=problems("missing_file", "unsupported_format", *COMMON_CODES),
    openapi_extra={"requestBody": SEVERAL_IMAGES},
)
async def captions(request: Request, query: Options) -> JSONResponse:
    """Send up to 16 images in one form, all in fields `image`; each gets a result or an error."""
    service = service_of(request)
    deadline = deadline_of(request)
    upload = await received(request, deadline, most_images=MOST_IMAGES)
    options = options_of(query, upload, longest_caption=service.settings.longest_caption)
    with service.admit(deadline, images=len(upload.images)) as ticket:
        work = [
            _entry(request, index, ticket, data, options)
            for index, data in enumerate(upload.images)
        ]
        results = await unless_gone(request, _together(work))
    request.state.notes["images"] = len(results)
    return JSONResponse({"results": results, "request_id": request.state.request_id})


async def _together(work: list[Coroutine[Any, Any, Result]]) -> list[Result]:
    return await asyncio.gather(*work)


async def _entry(
    request: Request, index: int, ticket: Ticket, data: bytes, options: CaptionOptions
) -> dict[str, Any]:
    request_id = request.state.request_id
    try:
        if not data:
            raise Problem("missing_file", "this field of the form is empty")
        captioned = await service_of(request).caption(ticket, data, options)
    except (Problem, CaptionerError) as error:
        problem = error if isinstance(error, Problem) else problem_of(error)
        if problem.code == "internal_error":
            log.exception("failed", request_id=request_id)
        return {"index": index, "error": problem.body(request_id)}
    answer = caption_answer(
        captioned,
        attention=options.attention,
        total_seconds=time.perf_counter() - request.state.started,
        request_id=request_id,
    )
    return {"index": index, **answer}


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request) -> float:
    """Return when the request's time is over, on the clock of the event loop."""
    limit = service_of(request).settings.request_timeout_seconds
    seconds = timeout_of(request.headers.get(TIMEOUT_HEADER), limit)
    passed = time.perf_counter() - request.state.started
    return asyncio.get_running_loop().time() + seconds - passed


async def received(
    request: Request, deadline: float, *, most_images: int = 1, ignores_fields: bool = False
) -> Upload:
    """Return what the body holds, which must arrive before the deadline.

    It is not read where the request would be refused for want of room.
    """
    service_of(request).check_room(deadline)
    async with before(deadline):
        started = time.perf_counter()
        with stage("receive"):
            upload = await read_upload(
                request, most_images=most_images, ignores_fields=ignores_fields
            )
    service_of(request).metrics.stage("receive", time.perf_counter() - started)
    return upload


class before:  # noqa: N801 - reads as a statement: `async with before(deadline)`
    """A context that ends with `DeadlineExceeded` at `deadline`."""

    def __init__(self, deadline: float) -> None:
        self._timeout = asyncio.timeout_at(deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, problem: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, problem, trace)
        except TimeoutError:
            raise DeadlineExceeded("the body had not arrived when the time was over") from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
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


def note(request: Request, captioned: Captioned) -> None:
    """Add to the request's line in the log what its image was and where its time went."""
    outcome, header = captioned.outcome, captioned.image.header
    request.state.notes.update(
        image=f"{header.format} {header.width}x{header.height}",
        batch=outcome.batch_size,
        queue_ms=round(outcome.queue_seconds * 1000, 2),
        decode_ms=round(captioned.image.seconds * 1000, 2),
        model=outcome.model.hash[:12],
    )
