"""The table of paths finds what the application's own router would choose."""

import pytest
from starlette.routing import Match, Route

from serving.paths import PathTable

PATHS = (
    "/v2",
    "/v2/",
    "/v2/models/one",
    "/v2/models/{model}",
    "/v2/models/{model}/ready",
    "/{any}",
)


def chosen(path: str) -> str | None:
    """Return the path of the route that Starlette chooses."""
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    for route in (Route(one, print) for one in PATHS):
        if route.matches(scope)[0] is Match.FULL:
            return route.path
    return None


@pytest.mark.parametrize(
    "path",
    [
        *("/v2", "/v2/", "/v3", "/V2", "/v2/models", "/v2/models/", "/v2/models/one"),
        *("/v2/models/other", "/v2/models/one/ready", "/v2/models/a/b/ready", "/v2/models/a%2Fb"),
        *("", "/", "//", "/v2\n", "/v2/models/one\n", "/v2/models/{model}", "/v2/models/a/ready/"),
    ],
)
def test_it_finds_the_route_that_starlette_chooses(path: str) -> None:
    found = PathTable((one, one.upper()) for one in PATHS).find(path)
    expected = chosen(path)
    assert found == (None if expected is None else (expected, expected.upper()))
