"""Paths of routes, found for a request before the application chooses its route.

What stands in front of the routes, access control and the gate, asks here what they declare.
"""

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from starlette.routing import compile_path

Declared = TypeVar("Declared")


class PathTable(Generic[Declared]):
    """What is declared for each path; those with a parameter, as `/models/{model}`, are patterns.

    A literal path counts before a pattern, and of patterns the first.
    """

    def __init__(self, declared: Iterable[tuple[str, Declared]]) -> None:
        self._literal: dict[str, tuple[str, Declared]] = {}
        self._patterns: list[tuple[re.Pattern[str], tuple[str, Declared]]] = []
        for path, kind in declared:
            if "{" in path:
                self._patterns.append((compile_path(path)[0], (path, kind)))
            else:
                self._literal[path] = path, kind

    def find(self, path: str) -> tuple[str, Declared] | None:
        """Return the route's path, as it was declared, and what is declared, or None."""
        found = self._literal.get(path)
        if found is not None:
            return found
        return next((entry for pattern, entry in self._patterns if pattern.match(path)), None)
