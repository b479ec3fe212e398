"""Administration: `POST /admin/reload` takes a new checkpoint without a restart."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from serving.access import Access, access
from serving.routes.captioning import service_of
from serving.routes.openapi_responses import problems, route_name
from serving.routes.response_models import ModelEntry, model_entry

router = APIRouter(prefix="/admin", tags=["administration"], generate_unique_id_function=route_name)


class Reloaded(BaseModel):
    """What serves now, and what served before."""

    model: ModelEntry
    before: ModelEntry


@router.post(
    "/reload",
    summary="Load the checkpoint again",
    responses=problems("unauthorized", "rate_limited", "reload_failed", "not_ready"),
)
@access(Access.ADMIN)
async def reload(request: Request) -> Reloaded:
    """Read the checkpoint's folder anew and swap models between two batches.

    Without a checkpoint in the settings it is the model that comes with captioner. No request
    fails; if the new one is damaged, the old one serves on and the answer says why. Other workers
    follow.
    """
    service = service_of(request)
    old = service.model
    new = await service.reload(everywhere=True)
    return Reloaded.model_validate({"model": model_entry(new), "before": model_entry(old)})
