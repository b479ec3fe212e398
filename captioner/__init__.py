"""Image captioning: `captioner.load(folder).caption(images)`.

The import is cheap: torch is imported when a name that needs it is first used.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner, load

# Since 1.29 ONNX Runtime reports its use to Microsoft, under an id that it keeps in the user's
# cache, unless it finds this when it is first imported. Who sets it to 0 lets it report.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = ["Caption", "Captioner", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in ("Caption", "Captioner", "load"):
        raise AttributeError(f"module 'captioner' has no attribute {name!r}")
    from captioner import captioner

    return getattr(captioner, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
