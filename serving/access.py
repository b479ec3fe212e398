"""Declarations of routes: who may ask, and whether a request waits in the queue.

Access is open to everybody, for holders of a key, or for administrators. A route that declares none
needs a key, so a forgotten declaration leaves it closed.
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


def takes_places(endpoint: Endpoint) -> Endpoint:
    """Declare that requests for a route's function wait in the queue."""
    endpoint.takes_places = True  # type: ignore[attr-defined]
    return endpoint


def declares_places(route: BaseRoute) -> bool:
    """Return whether a route declares that its requests wait in the queue."""
    return getattr(getattr(route, "endpoint", None), "takes_places", False)
