"""`POST /admin/reload`: a new checkpoint without a restart. It always needs a key."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from serving.routes.captions import service_of
from serving.routes.openapi_responses import problems
from serving.routes.response_models import ModelEntry

router = APIRouter(prefix="/admin", tags=["administration"])


class Reloaded(BaseModel):
    """What serves now, and what served before."""

    model: ModelEntry
    before: ModelEntry


@router.post(
    "/reload",
    summary="Load the checkpoint again",
    responses=problems("unauthorized", "rate_limited", "reload_failed", "not_ready"),
)
async def reload(request: Request) -> Reloaded:
    """Read the checkpoint's folder anew and swap models between two batches.

    Without a checkpoint in the settings it is the newest of `runs/*/best`. No request fails; if the
    new one is damaged, the old one serves on and the answer says why. Other workers follow.
    """
    service = service_of(request)
    old = service.model
    new = await service.reload()
    service.reload_elsewhere()
    return Reloaded(
        model=ModelEntry(name=new.name, hash=new.hash),
        before=ModelEntry(name=old.name, hash=old.hash),
    )
