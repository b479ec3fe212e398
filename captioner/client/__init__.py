"""Client for a caption service on another machine (`POST /caption`).

    from captioner.client import CaptionClient
    with CaptionClient("http://localhost:8000") as client:
        print(client.caption("dog.jpg").caption)

`AsyncCaptionClient` has the same methods for asyncio. Neither needs torch; both need httpx, which
the extra `serving` installs.
"""

from captioner.client.clients import AsyncCaptionClient, CaptionClient
from captioner.client.responses import CaptionResponse, ServedCaption
from captioner.client.retries import Patience, Photograph, RequestOptions
from captioner.errors import ServiceError

Answer = CaptionResponse  # its former name

__all__ = [
    "Answer",
    "AsyncCaptionClient",
    "CaptionClient",
    "CaptionResponse",
    "Patience",
    "Photograph",
    "RequestOptions",
    "ServedCaption",
    "ServiceError",
]
