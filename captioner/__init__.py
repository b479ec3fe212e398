"""Image captioning: `captioner.load(folder).caption(images)`.

The import is cheap: torch is imported when a name that needs it is first used.
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
