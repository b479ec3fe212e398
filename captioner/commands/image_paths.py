"""The images that the arguments of a command stand for: files, folders of them and patterns."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import ImageError


def find_photographs(arguments: Sequence[str]) -> tuple[list[Path], dict[str, ImageError]]:
    """Return every photograph once, in the order given, and what is wrong with some arguments.

    A file is taken whatever its name. Of a folder, and of what a pattern matches, the files are
    taken that look like images by their names or their content, also those of formats that
    cannot be read, so that they can be reported; hidden files are left out.
    """
    found: dict[Path, None] = {}
    problems: dict[str, ImageError] = {}
    for argument in arguments:
        try:
            paths, problem = _files(argument)
        except OSError as error:
            paths, problem = [], f"{argument}: {error.strerror}"
        if not paths:
            problems[argument] = ImageError(problem)
        found.update(dict.fromkeys(paths))
    return list(found), problems


def _files(argument: str) -> tuple[list[Path], str]:
    """Return the files an argument stands for, and what to say if there are none."""
    path = Path(os.path.expanduser(argument))
    if path.is_dir():
        below = path / "**" / "*"
        problem = f"{argument} holds no image; for its subfolders give '{below}'"
        return _images(path.iterdir()), problem
    if path.exists():
        return [path], ""
    if glob.has_magic(argument):
        matches = map(Path, glob.iglob(str(path), recursive=True))
        return _images(matches), f"no image matches {argument}; check the pattern"
    if re.match(r"[a-z][a-z0-9+.-]+://", argument, re.IGNORECASE):
        return [], f"{argument} is a URL; fetch the photograph first, and name its file"
    return [], f"{argument}: there is no such file; check the path"


def _images(paths: Iterable[Path]) -> list[Path]:
    from captioner.data.image_formats import is_image_file

    return sorted(
        path
        for path in paths
        if not path.name.startswith(".") and path.is_file() and is_image_file(path)
    )
