"""Who may come in: the keys and the rate limit, both decided by a request's header alone.

Health, version, metrics, the page and the documents are open to everybody; whatever costs work or
tells about the model's users is not.
"""

import ipaddress
import math
import os
import time
from pathlib import Path

from limits import parse_many
from limits.storage import MemoryStorage, MovingWindowSupport
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api_keys import KeyHash, matching_key
from serving.middleware.shared_rates import SharedHits
from serving.problems import Problem
from serving.settings import Settings
from serving.telemetry.metrics import FOLDER_VARIABLE

GUARDED = {
    "/caption": "POST",
    "/captions": "POST",
    "/model/predict": "POST",
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
    "/admin/reload": "POST",
}
ADMIN = "/admin/"


class Gate:
    """ASGI middleware that raises `unauthorized` or `rate_limited`."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self.keys = settings.api_keys
        self.admin_keys = settings.admin_keys or settings.api_keys
        self.rates = parse_many(settings.rate_limit) if settings.rate_limit else []
        self.hits = _hits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_guarded(scope["path"], scope["method"]):
            key = self._checked_key(scope["path"], Headers(scope=scope))
            if self.rates:
                self._count(key.hex() if key else _network(scope))
        await self.app(scope, receive, send)

    def _checked_key(self, path: str, headers: Headers) -> KeyHash | None:
        allowed = self.admin_keys if path.startswith(ADMIN) else self.keys
        if not allowed and not path.startswith(ADMIN):
            return None
        key = matching_key(headers, allowed)
        if key is None:
            detail = (
                "the service has no key for this; set CAPTIONER_ADMIN_KEYS where it runs"
                if not allowed
                else "the request carries no valid key; send Authorization: Bearer KEY"
            )
            raise Problem("unauthorized", detail, closes_connection=True)
        return key

    def _count(self, client: str) -> None:
        for rate in self.rates:
            window = (rate.key_for(client), rate.amount, rate.get_expiry())
            if not self.hits.acquire_entry(*window):
                began, _ = self.hits.get_moving_window(*window)
                seconds = began + rate.get_expiry() - time.time()
                raise Problem(
                    "rate_limited",
                    f"this client has sent more than {rate}; wait",
                    retry_after_seconds=max(1, math.ceil(seconds)),
                )


def is_guarded(path: str, method: str) -> bool:
    """Return whether a request needs a key, where there are keys, and counts for the rate."""
    return GUARDED.get(path) == method


def _hits() -> MovingWindowSupport:
    """Return where hits are counted: with other workers, or in this process's memory."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return MemoryStorage() if folder is None else SharedHits(Path(folder))


def _network(scope: Scope) -> str:
    """Return the client's address, or of IPv6 the network that one customer gets."""
    try:
        address = ipaddress.ip_address((scope.get("client") or [""])[0])
    except ValueError:  # a socket without addresses
        return "unknown"
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
