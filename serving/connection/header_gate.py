"""Gate before the application: refuses requests for want of room as soon as their header is there.

The connection asks it (`protocol.py`), so such a request costs neither its body nor a
task, and nothing of the application runs for it. A request without a valid key is told that, and
nothing of the load. Whatever the gate does not decide, the application does.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.routing import BaseRoute

from serving.access import declares_places
from serving.api_keys import matching_key
from serving.connection.early_answers import RawHeaders
from serving.middleware.access_control import key_is_needed
from serving.paths import PathTable
from serving.problems import Problem, problem_of
from serving.routes.request_options import TIMEOUT_HEADER, timeout_of
from serving.service import Service

_TIMEOUT_NAME = TIMEOUT_HEADER.lower().encode("ascii")


class HeaderGate:
    """Decides from method, path and header fields."""

    def __init__(self, service: Service, routes: Iterable[BaseRoute]) -> None:
        self._service = service
        self._keys = service.settings.keys
        self._paths = PathTable(
            (str(getattr(route, "path", "")), True) for route in routes if declares_places(route)
        )

    def why_refused(
        self, method: bytes, target: bytes, headers: RawHeaders
    ) -> tuple[Problem, str] | None:
        """Return why a request is refused now, and its route's path; else None.

        One that wants captions and is not refused is expected to take its place at once.
        """
        if method != b"POST":
            return None
        found = self._paths.find(target.partition(b"?")[0].decode("latin-1"))
        if found is None:
            return None
        path, _ = found
        seconds = self._service.settings.request_timeout_seconds
        timeout = next((value for name, value in headers if name == _TIMEOUT_NAME), None)
        if timeout is not None:
            try:
                seconds = timeout_of(timeout.decode("latin-1"), seconds)
            except Problem:
                return None
        reason = self._service.why_full(seconds)
        if reason is None:
            self._service.expect()
            return None
        if self._keys and matching_key(Headers(raw=list(headers)), self._keys) is None:
            return key_is_needed(), path
        return problem_of(reason), path
