"""The Open Inference Protocol (KServe's V2), so that clients of KServe and Triton work unchanged.

Its one model is called `captioner`; whichever checkpoint is served is its version. A request is
answered as a whole: the protocol has no error for one image of several.

Sources: open-inference-protocol, specification/protocol/inference_rest.md; Triton Inference Server,
docs/protocol, its extensions for binary tensor data, parameters and the model's configuration.
"""

import asyncio
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from captioner import __version__
from captioner.search_config import SearchConfig
from serving.access import Access, access, takes_places
from serving.admission import Ticket
from serving.errors import ImageRejected, NotReady
from serving.model import ServedModel
from serving.problems import Problem
from serving.routes.captioning import (
    caption_decoded,
    deadline_of,
    decode_image,
    receive,
    service_of,
    unless_disconnected,
)
from serving.routes.captions import MOST_IMAGES
from serving.routes.inference_tensors import (
    BYTES,
    FP32,
    INPUT,
    LENGTH_HEADER,
    InferenceAnswer,
    InferenceRequest,
    Output,
    TensorMetadata,
    inference_of,
    outputs_wanted,
    written,
)
from serving.routes.openapi_responses import (
    BINARY,
    COMMON_CODES,
    EXAMPLE_IMAGE,
    IMAGE_CODES,
    open_inference_problems,
    route_name,
)
from serving.routes.request_options import OptionFields, check_words, options_of
from serving.routes.response_models import Captioned
from serving.routes.uploads import Upload, read_body

MODEL = "captioner"
EXTENSIONS = ["binary_tensor_data", "parameters", "model_configuration"]
# Parameters of a request that are no options of ours. Triton keeps the others for itself, and a
# model without sequences or priorities is asked the same with them.
ABOUT_THE_ANSWER = "binary_data_output"
TIME = "timeout"  # microseconds
UNUSED = ("sequence_id", "sequence_start", "sequence_end", "priority", "headers")
UNUSED_PREFIX = "triton_"


class _Kind(NamedTuple):
    datatype: str
    attribute: str  # of a `Caption`
    none: Any  # what stands where there is no caption


OUTPUTS = {
    "caption": _Kind(BYTES, "text", ""),
    "log_prob": _Kind(FP32, "log_prob", np.finfo(np.float32).min.item()),
    "confidence": _Kind(FP32, "confidence", 0.0),  # only of a model that was calibrated
}

router = APIRouter(prefix="/v2", tags=["open inference"], generate_unique_id_function=route_name)

Options = Annotated[OptionFields, Query()]
JsonLength = Annotated[
    int | None,
    Header(alias=LENGTH_HEADER, description="Bytes of the JSON, where tensors follow it.", ge=0),
]


class ServerMetadata(BaseModel):
    """The server."""

    name: str = Field(examples=["captioner"])
    version: str
    extensions: list[str] = Field(examples=[EXTENSIONS])


class ModelMetadata(BaseModel):
    """The model, and which tensors it takes and gives."""

    name: str = Field(examples=[MODEL])
    versions: list[str] = Field(description="The one that is served, by its hash.")
    platform: str = Field(examples=["captioner_onnxruntime"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """The model captions."""

    name: str = Field(examples=[MODEL])
    ready: bool


# Of several decorators the lowest is the first route, so that the one model has a path of its own
# in metrics; the others are for versions, and for models that are not there.
@router.get("/", include_in_schema=False)
@router.get("", summary="What this server is")
@access(Access.OPEN)
async def describe_server() -> ServerMetadata:
    return ServerMetadata(name="captioner", version=__version__, extensions=EXTENSIONS)


@router.get("/models/{model}", include_in_schema=False)
@router.get("/models/{model}/versions/{version}", include_in_schema=False)
@router.get(
    f"/models/{MODEL}",
    summary="What the model takes and gives",
    responses=open_inference_problems("not_ready"),
)
@access(Access.OPEN)
async def describe_model(request: Request) -> ModelMetadata:
    model = _model_asked_for(request)
    return ModelMetadata(
        name=MODEL,
        versions=[_version(model)],
        platform=f"captioner_{model.engine['engine']}",
        inputs=[TensorMetadata(name=INPUT, datatype=BYTES, shape=[-1])],
        outputs=[
            TensorMetadata(name=name, datatype=OUTPUTS[name].datatype, shape=[-1, -1])
            for name in _output_names(model)
        ],
    )


@router.get("/models/{model}/ready", include_in_schema=False)
@router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
@router.get(
    f"/models/{MODEL}/ready",
    summary="Whether the model captions",
    responses=open_inference_problems("not_ready"),
)
@access(Access.OPEN)
async def model_ready(request: Request) -> ModelReady:
    _model_asked_for(request)
    reason = service_of(request).why_not_ready()
    if reason is not None:
        raise NotReady(reason)
    return ModelReady(name=MODEL, ready=True)


@router.get("/models/{model}/config", include_in_schema=False)
@router.get("/models/{model}/versions/{version}/config", include_in_schema=False)
@router.get(
    f"/models/{MODEL}/config",
    summary="The model's configuration, as Triton gives it",
    responses=open_inference_problems("not_ready"),
)
@access(Access.OPEN)
async def describe_configuration(request: Request) -> dict[str, Any]:
    """The shapes are whole ones: `max_batch_size` 0 means that no dimension is left out."""
    found = await describe_model(request)

    def described(tensors: list[TensorMetadata]) -> list[dict[str, Any]]:
        types = {BYTES: "TYPE_STRING", FP32: "TYPE_FP32"}
        return [
            {"name": one.name, "data_type": types[one.datatype], "dims": one.shape}
            for one in tensors
        ]

    return {
        "name": found.name,
        "platform": found.platform,
        "backend": "captioner",
        "max_batch_size": 0,
        "input": described(found.inputs),
        "output": described(found.outputs),
    }


ONE_TENSOR = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": f"#/components/schemas/{InferenceRequest.__name__}"},
            "example": {
                "inputs": [
                    {"name": INPUT, "datatype": BYTES, "shape": [1], "data": [EXAMPLE_IMAGE]}
                ],
                "parameters": {"num_captions": 3},
            },
        },
        "application/octet-stream": {"schema": BINARY},
    },
}


@router.post("/models/{model}/infer", include_in_schema=False)
@router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
@router.post(
    f"/models/{MODEL}/infer",
    summary="Caption a tensor of photographs",
    response_model=InferenceAnswer,
    responses={
        200: {"content": {"application/octet-stream": {"schema": BINARY}}},
        **open_inference_problems(*IMAGE_CODES, *COMMON_CODES),
    },
    openapi_extra={"requestBody": ONE_TENSOR},
)
@access(Access.KEY)
@takes_places
async def infer(request: Request, query: Options, json_length: JsonLength = None) -> Response:
    """Send up to 16 files in the tensor `image`; `caption` and `log_prob` have a row for each.

    Options may stand among the request's parameters or in the query. If one photograph cannot be
    decoded, the answer is an error that names it, and there are no captions for the others.
    """
    service = service_of(request)
    _model_asked_for(request)
    deadline = deadline_of(request)
    body = await receive(request, deadline, read_body)
    asked = inference_of(body, json_length, most_files=MOST_IMAGES)
    del body  # it would be held until the answer, beside the files that are made of it
    deadline = deadline_of(request, _seconds(asked.parameters.get(TIME, 0)))
    config = _search_config(query, asked.parameters, service.settings.longest_caption)
    wanted = outputs_wanted(asked, _output_names(service.model))
    files, request_id = asked.files, asked.id
    # Until the answer only this is kept: in memory a text can be four times the bytes that came.
    del asked
    with service.admit(deadline, images=len(files)) as ticket:
        check_words(config, ticket.model.vocabulary)
        work = _caption_all(request, ticket, files, config)
        captioned = await unless_disconnected(request, work)
    model = captioned[0].outcome.model
    _check_version(request, model)  # it may have been swapped in meanwhile
    request.state.notes.update(images=len(captioned), model=_version(model))
    head = {"model_name": MODEL, "model_version": _version(model)}
    if request_id is not None:
        head["id"] = request_id
    outputs = [
        (_output(name, captioned, config.num_captions), is_binary) for name, is_binary in wanted
    ]
    content, length = written(head, outputs)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(
        content, media_type="application/octet-stream", headers={LENGTH_HEADER: str(length)}
    )


async def _caption_all(
    request: Request, ticket: Ticket, files: list[bytes], config: SearchConfig
) -> list[Captioned]:
    """Return the captions of all files; where one is no picture, none is captioned."""
    service = service_of(request)
    decoded = await asyncio.gather(
        *(decode_image(service, ticket, file) for file in files), return_exceptions=True
    )
    images = []
    for index, image in enumerate(decoded):
        if isinstance(image, ImageRejected):
            raise Problem(image.code, f"{INPUT}[{index}]: {image.detail}")
        if isinstance(image, BaseException):
            raise image
        images.append(image)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(caption_decoded(service, ticket, file, image, config))
                for file, image in zip(files, images, strict=True)
            ]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _output_names(model: ServedModel) -> list[str]:
    return [name for name in OUTPUTS if model.has_confidence or name != "confidence"]


def _output(name: str, captioned: list[Captioned], count: int) -> Output:
    """Return an output with a row for each image and a column for each of `count` captions.

    Where an image has fewer captions, the rest of its row says that none is there.
    """
    kind, rows = OUTPUTS[name], []
    for one in captioned:
        found = [getattr(caption, kind.attribute) for caption in one.outcome.captions]
        row = [kind.none if element is None else element for element in found]
        rows.append(row + [kind.none] * (count - len(row)))
    return Output(name, kind.datatype, rows)


def _version(model: ServedModel) -> str:
    return model.hash[:12]


def _model_asked_for(request: Request) -> ServedModel:
    """Return the model, if the path names it and its version.

    Raises:
        NotReady: there is none yet.
        Problem: it is another one.
    """
    name = request.path_params.get("model", MODEL)
    if name != MODEL:
        raise Problem(
            "not_found", f"there is no model {name[:80]!r}; the one that is served is {MODEL!r}"
        )
    model = service_of(request).model
    _check_version(request, model)
    return model


def _check_version(request: Request, model: ServedModel) -> None:
    version = request.path_params.get("version", _version(model))
    if version != _version(model):
        raise Problem(
            "not_found",
            f"model {MODEL!r} has no version {version[:80]!r}; it is {_version(model)!r}, or leave "
            "the version out",
        )


def _seconds(microseconds: Any) -> float | None:
    """Return a request's own time limit, where it is one."""
    if type(microseconds) is not int or not 0 <= microseconds < 2**64:
        shown = str(microseconds)[:40]
        raise Problem("invalid_parameter", f"timeout is {shown!r}; give whole microseconds")
    return microseconds / 1e6 or None


def _search_config(
    query: OptionFields, given: dict[str, Any], longest_caption: int
) -> SearchConfig:
    options = {
        name: value
        for name, value in given.items()
        if name not in (ABOUT_THE_ANSWER, TIME, *UNUSED) and not name.startswith(UNUSED_PREFIX)
    }
    upload = Upload([], options, is_json=True)
    config, attention = options_of(query, upload, longest_caption=longest_caption)
    if attention:
        raise Problem("invalid_parameter", "attention is no output here; POST /caption gives it")
    return config
