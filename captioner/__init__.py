"""Captions for photographs: `captioner.load(folder).caption(images)`.

Importing this is cheap; what needs torch is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner, load

__version__ = "0.1.0"

__all__ = ["Caption", "Captioner", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in ("Caption", "Captioner", "load"):
        raise AttributeError(f"module 'captioner' has no attribute {name!r}")
    from captioner import captioner

    return getattr(captioner, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
