"""The interface of IBM's Model Asset Exchange, so that its clients work unchanged.

Source: IBM/MAX-Image-Caption-Generator, api/predict.py and api/metadata.py. Unlike there, the
image's content decides its format, and an image that cannot be decoded is the client's error.
"""

from functools import partial

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from captioner.search_config import SearchConfig
from serving.access import Access, access, takes_places
from serving.routes.captioning import caption_upload, deadline_of, receive, service_of
from serving.routes.openapi_responses import (
    BINARY,
    COMMON_CODES,
    IMAGE_CODES,
    IMAGE_ENCODING,
    max_problems,
    route_name,
)
from serving.routes.uploads import read_upload

PREDICTIONS = 3  # as the original gives
router = APIRouter(prefix="/model", tags=["IBM MAX"], generate_unique_id_function=route_name)


class Prediction(BaseModel):
    """One caption; the index is text, as in the original."""

    index: str = Field(examples=["0"])
    caption: str = Field(examples=["a dog runs on the grass"])
    probability: float = Field(examples=[0.0045])


class Predictions(BaseModel):
    """The answer of the original."""

    status: str = Field(examples=["ok"])
    predictions: list[Prediction]


class Metadata(BaseModel):
    """What the original tells of its model."""

    id: str
    name: str
    description: str
    type: str
    source: str
    license: str


@router.post(
    "/predict",
    summary="Caption one image, as IBM MAX does",
    response_model=Predictions,
    responses=max_problems(*IMAGE_CODES, *COMMON_CODES),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": BINARY},
                        "required": ["image"],
                    },
                    "encoding": IMAGE_ENCODING,
                }
            },
        }
    },
)
@access(Access.KEY)
@takes_places
async def predict(request: Request) -> JSONResponse:
    """Send the image as the field `image` of a form; the three best captions come back."""
    deadline = deadline_of(request)
    upload = await receive(request, deadline, partial(read_upload, ignores_fields=True))
    longest = min(SearchConfig.max_length, service_of(request).settings.longest_caption)
    config = SearchConfig.for_captions(PREDICTIONS, max_length=longest)
    captioned = await caption_upload(request, deadline, upload.images[0], config)
    found = [
        {"index": str(index), "caption": caption.text, "probability": caption.probability}
        for index, caption in enumerate(captioned.outcome.captions)
    ]
    return JSONResponse({"status": "ok", "predictions": found})


@router.get(
    "/metadata",
    summary="What the model is, as IBM MAX says it",
    responses=max_problems("not_ready"),
)
@access(Access.OPEN)
async def model_metadata(request: Request) -> Metadata:
    model = service_of(request).model
    return Metadata(
        id=f"captioner-{model.hash[:12]}",
        name=model.name,
        description="Captions for photographs: an image encoder and an LSTM with h-detach",
        type="Image-to-Text Translation",
        source="captioner",
        license="MIT",
    )
