"""Paths of routes, found for a request before the application chooses its route.

What stands in front of the routes, access control and the gate, asks here what they declare.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

from starlette.routing import compile_path

Declared = TypeVar("Declared")


def has_control_characters(path: str) -> bool:
    """Return whether a decoded path is none of this service's, whatever a pattern says.

    Patterns of Starlette end with `$`, which matches before a line feed too: `/metrics%0A` would
    be `/metrics`, and would pass a proxy that guards only that.
    """
    return any(character < " " or character == "\x7f" for character in path)


class PathTable(Generic[Declared]):
    """What is declared for each path, which may have parameters, as `/models/{model}`.

    It finds the route that Starlette would, if a path stands before the patterns that match it.
    """

    def __init__(self, declared: Iterable[tuple[str, Declared]]) -> None:
        self._entries = {path: (path, kind) for path, kind in declared}
        self._patterns = [(compile_path(path)[0], entry) for path, entry in self._entries.items()]

    def find(self, path: str) -> tuple[str, Declared] | None:
        """Return the route's path, as it was declared, and what is declared, or None."""
        found = self._entries.get(path)
        if found is not None and "{" not in path:
            return found
        return next((entry for pattern, entry in self._patterns if pattern.match(path)), None)
