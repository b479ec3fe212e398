"""Which files the words on a command line mean: images, folders of them, patterns."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from captioner.errors import ImageError


def find_photographs(words: Sequence[str]) -> tuple[list[Path], dict[str, ImageError]]:
    """Return every photograph once, in the order of the words, and what is wrong with some words.

    A file is taken whatever its name; of a folder, and of what a pattern matches, the files whose
    names end as image files do, in any case of letters, hidden ones left out.
    """
    found: dict[Path, None] = {}
    problems: dict[str, ImageError] = {}
    for word in words:
        try:
            paths, problem = _meaning(word)
        except OSError as error:
            paths, problem = [], f"{word}: {error.strerror}"
        if not paths:
            problems[word] = ImageError(problem)
        found.update(dict.fromkeys(paths))
    return list(found), problems


def _meaning(word: str) -> tuple[list[Path], str]:
    """Return the files a word stands for, and what to say if there are none."""
    path = Path(word).expanduser()
    if path.is_dir():
        below = path / "**" / "*"
        return _images(path.iterdir()), f"{word} holds no image; for its subfolders give '{below}'"
    if path.exists():
        return [path], ""
    if glob.has_magic(word):
        matches = map(Path, glob.iglob(str(path), recursive=True))
        return _images(matches), f"no image matches {word}; check the pattern"
    return [], f"{word}: there is no such file; check the path"


def _images(paths: Iterable[Path]) -> list[Path]:
    from captioner.data.images import IMAGE_SUFFIXES

    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )
