"""h-detach: the masks, and LSTMs whose backward pass honours them.

`hdetach_lstm` is the LSTM as a function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.lstm.masks import sample_keep
    from captioner.lstm.operator import hdetach_lstm

_MODULES = {
    "hdetach_lstm": "captioner.lstm.operator",
    "sample_keep": "captioner.lstm.masks",
}

__all__ = ["hdetach_lstm", "sample_keep"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'captioner.lstm' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
