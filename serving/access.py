"""Access to paths: open to everybody, for holders of a key, or for administrators.

Every route declares its access. A path that declares nothing needs a key, so a forgotten
declaration leaves a route closed.
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
