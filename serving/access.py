"""Access: whether a path is open to everybody, to holders of a key, or to administrators.

Every route declares it. What declares nothing needs a key, so that a route that somebody forgot to
think about is closed.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from starlette.routing import BaseRoute

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Access(Enum):
    """Who may ask."""

    OPEN = "open"  # everybody
    KEY = "key"  # everybody where the service has no keys, else holders of one
    ADMIN = "admin"  # holders of an administrator's key, and nobody where there is none


def access(kind: Access) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that declares who may ask a route's function."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.access = kind  # type: ignore[attr-defined]
        return endpoint

    return declare


def declared_access(route: BaseRoute) -> Access | None:
    """Return what a route declares, or None where it declares nothing."""
    return getattr(getattr(route, "endpoint", None), "access", None)
