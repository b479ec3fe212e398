"""Access control: keys and the rate limit, both decided from a request's header.

Only paths whose routes declare themselves open are let through. Every other path, also an unknown
one, needs a key if the service has keys, and counts towards the rate.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access import Access, declared_access
from serving.addresses import plain_address
from serving.api_keys import KeyHash, matching_key
from serving.paths import PathTable, has_control_characters
from serving.problems import Problem
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.middleware.rate_limit import RateLimit


class AccessControl:
    """ASGI middleware that raises `unauthorized` or `rate_limited`.

    The rate is the same for all workers that share `shared_folder`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        routes: Sequence[BaseRoute],
        shared_folder: Path | None,
    ) -> None:
        self.app = app
        self.keys = settings.keys
        self.admin_keys = settings.admin_keys or settings.keys
        self.rate: RateLimit | None = None
        if settings.rate_limit is not None:  # else nothing of it is imported
            from serving.middleware import rate_limit

            self.rate = rate_limit.RateLimit(settings.rate_limit, shared_folder)
        declared: dict[str, Access] = {}
        for route in routes:
            path, kind = getattr(route, "path", ""), declared_access(route) or Access.KEY
            # A path may have a route for each method; the path is as closed as the most closed.
            if declared.setdefault(path, kind) is Access.OPEN:
                declared[path] = kind
        self.access = PathTable(declared.items())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if has_control_characters(scope["path"]):
                raise Problem("not_found", "the path holds a control character; no path here does")
            path, access = self.access.find(scope["path"]) or (None, Access.KEY)
            scope["state"]["path"] = path  # of the route, for who is told only of a refusal
            if access is not Access.OPEN:
                key = self._checked_key(access, Headers(scope=scope))
                if self.rate is not None:
                    self.rate.count(key.hex() if key else _network(scope))
        await self.app(scope, receive, send)

    def _checked_key(self, access: Access, headers: Headers) -> KeyHash | None:
        is_admin = access is Access.ADMIN
        allowed = self.admin_keys if is_admin else self.keys
        if not allowed and not is_admin:
            return None
        key = matching_key(headers, allowed)
        if key is None:
            raise key_is_needed(exists=bool(allowed))
        return key


def key_is_needed(*, exists: bool = True) -> Problem:
    """Return the refusal of a request without a valid key; `exists` says that there is one."""
    detail = (
        "the request carries no valid key; send Authorization: Bearer KEY"
        if exists
        else "the service has no key for this; set CAPTIONER_ADMIN_KEYS where it runs"
    )
    return Problem("unauthorized", detail, closes_connection=True)


def _network(scope: Scope) -> str:
    """Return the client's address, or of IPv6 the network that one customer gets."""
    try:
        address = ipaddress.ip_address(plain_address((scope.get("client") or [""])[0]))
    except ValueError:  # a socket without addresses
        return "unknown"
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
