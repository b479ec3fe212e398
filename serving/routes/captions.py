"""Caption routes: `POST /caption` for one image, `POST /captions` for several."""

import asyncio
import time
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from captioner.errors import CaptionerError
from captioner.search_config import SearchConfig
from serving.access import Access, access, takes_places
from serving.admission import Ticket
from serving.problems import Problem, problem_of
from serving.routes.captioning import (
    caption_image,
    caption_upload,
    deadline_of,
    receive,
    service_of,
    unless_disconnected,
)
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
    WORD_LISTS,
    OptionFields,
    check_words,
    options_of,
)
from serving.routes.response_models import BatchAnswer, CaptionAnswer, Captioned, caption_answer
from serving.routes.uploads import read_upload

MOST_IMAGES = 16

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
    upload = await receive(request, deadline, read_upload)
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
    read = partial(read_upload, most_images=MOST_IMAGES)
    upload = await receive(request, deadline, read)
    config, attention = options_of(query, upload, longest_caption=service.settings.longest_caption)
    with service.admit(deadline, images=len(upload.images)) as ticket:
        check_words(config, ticket.model.vocabulary)
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
