"""OpenAI's chat completions for images, so that its clients work unchanged.

The last image of the conversation is captioned; the words around it are not read. `n` asks for
several captions, and any name of a model is taken, since there is one.
"""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from captioner.captioner import Caption
from captioner.search_config import MAX_BEAM_SIZE, SearchConfig
from serving.access import Access, access, takes_places
from serving.model import ServedModel
from serving.problems import Problem
from serving.routes.captioning import caption_upload, deadline_of, receive, service_of
from serving.routes.openapi_responses import (
    COMMON_CODES,
    EXAMPLE_IMAGE,
    IMAGE_CODES,
    openai_problems,
    route_name,
)
from serving.routes.request_options import WHOLE, invalid
from serving.routes.uploads import image_from_text, read_json

router = APIRouter(prefix="/v1", tags=["OpenAI"], generate_unique_id_function=route_name)


class ImageUrl(BaseModel):
    """An image inside the request."""

    url: str = Field(
        description="A `data:` URL of base64. Nothing is fetched from elsewhere.",
        examples=[f"data:image/png;base64,{EXAMPLE_IMAGE}"],
    )


class Part(BaseModel):
    """A part of a message; only those with an image count."""

    type: str = Field(examples=["image_url"])
    image_url: ImageUrl | str | None = None


class ChatMessage(BaseModel):
    """One message of the conversation."""

    role: str = Field(examples=["user"])
    content: list[Part] | str | None = None


class StreamOptions(BaseModel):
    """What a streamed answer is to hold besides the captions."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """What of OpenAI's request is read; the rest may be there."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    model: str = ""
    n: Annotated[int, Field(ge=1, le=MAX_BEAM_SIZE), WHOLE] | None = 1
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class ChatAnswer(BaseModel):
    """A completed chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]


STREAMED = {  # an event of the answer to a request with `stream`
    "type": "object",
    "properties": {
        "data": {"type": "string", "description": "A chunk of the chat as JSON, then `[DONE]`."}
    },
    "required": ["data"],
}


@router.post(
    "/chat/completions",
    summary="Caption one image, as OpenAI's chat does",
    response_model=ChatAnswer,
    responses={
        200: {"content": {"text/event-stream": {"schema": STREAMED}}},
        **openai_problems(*IMAGE_CODES, *COMMON_CODES),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ChatRequest"},
                    "example": {
                        "messages": [
                            {
                                "role": "user",
                                "content": [
                                    {
                                        "type": "image_url",
                                        "image_url": f"data:image/png;base64,{EXAMPLE_IMAGE}",
                                    }
                                ],
                            }
                        ]
                    },
                }
            },
        }
    },
)
@access(Access.KEY)
@takes_places
async def chat_completions(request: Request) -> Response:
    """Send a conversation with an `image_url` that is a `data:` URL; the caption is the answer."""
    service = service_of(request)
    deadline = deadline_of(request)
    chat = _read_chat(await receive(request, deadline, read_json))
    data = _last_image(chat)
    config = _search_config(chat, service.settings.longest_caption)
    is_streamed, streamed = chat.stream, chat.stream_options
    has_usage = streamed is not None and bool(streamed.include_usage)
    # Until the answer only this is kept: in memory a text can be four times the bytes that came.
    del chat, streamed
    outcome = (await caption_upload(request, deadline, data, config)).outcome
    head = {
        "id": f"chatcmpl-{request.state.request_id}",
        "created": int(time.time()),
        "model": outcome.model.name,
        "system_fingerprint": outcome.model.hash[:12],
    }
    tokens = sum(len(caption.tokens) for caption in outcome.captions)
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    if is_streamed:
        events = _events(head, outcome.captions, config.max_length, usage if has_usage else None)
        return Response("".join(events), media_type="text/event-stream")
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": caption.text, "refusal": None},
            "finish_reason": _finish_reason(caption, config.max_length),
            "logprobs": None,
        }
        for index, caption in enumerate(outcome.captions)
    ]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage})


class ModelCard(BaseModel):
    """The one model there is."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models there are."""

    object: Literal["list"]
    data: list[ModelCard]


@router.get(
    "/models",
    summary="The model there is, as OpenAI lists it",
    responses=openai_problems("unauthorized", "rate_limited", "not_ready"),
)
@access(Access.KEY)
async def models(request: Request) -> ModelList:
    return ModelList(object="list", data=[_card(service_of(request).model)])


@router.get(
    "/models/{model}",
    summary="One model, as OpenAI describes it",
    responses=openai_problems("unauthorized", "not_found", "rate_limited", "not_ready"),
)
@access(Access.KEY)
async def model(request: Request, model: str) -> ModelCard:
    served = service_of(request).model
    if model != served.name:
        raise Problem(
            "not_found",
            f"there is no model {model[:80]!r}; the one that is served is {served.name!r}",
            members={"parameter": "model"},
        )
    return _card(served)


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(
        id=model.name, object="model", created=int(model.loaded_at), owned_by="captioner"
    )


def _read_chat(value: dict[str, Any]) -> ChatRequest:
    try:
        return ChatRequest.model_validate(value, strict=True)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None


def _last_image(chat: ChatRequest) -> bytes:
    for message in reversed(chat.messages):
        parts = message.content if isinstance(message.content, list) else []
        for part in reversed(parts):
            if part.image_url is not None:
                url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
                return image_from_text(url, "image_url")
    raise Problem(
        "missing_file",
        "no message holds an image; send a part of type image_url with a data: URL",
        members={"parameter": "messages"},
    )


def _search_config(chat: ChatRequest, longest_caption: int) -> SearchConfig:
    longest = chat.max_completion_tokens or chat.max_tokens or SearchConfig.max_length
    return SearchConfig.for_captions(
        chat.n or 1, max_length=min(longest, longest_caption, SearchConfig.max_length)
    )


def _finish_reason(caption: Caption, max_length: int) -> str:
    return "length" if len(caption.tokens) >= max_length else "stop"


def _events(
    head: dict[str, Any], captions: list[Caption], max_length: int, usage: dict[str, int] | None
) -> Iterator[str]:
    """Yield the answer as server-sent events, a caption at a time: the search has ended.

    With `usage` a last chunk has it and no choices, and all others have the member without a value.
    """
    head = {**head, "object": "chat.completion.chunk"}
    if usage is not None:
        head["usage"] = None
    for index, caption in enumerate(captions):
        delta = {"role": "assistant", "content": caption.text}
        for part, reason in ((delta, None), ({}, _finish_reason(caption, max_length))):
            choice = {"index": index, "delta": part, "finish_reason": reason, "logprobs": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    if usage is not None:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"
