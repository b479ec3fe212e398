"""h-detach: the masks, and LSTMs whose backward pass honours them.

`HDetachLSTM` stands in for `torch.nn.LSTM`, `HDetachLSTMCell` for `torch.nn.LSTMCell`;
`hdetach_lstm` and `hdetach_step` are the functions underneath, `sample_keep` draws their masks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.hdetach.masks import sample_keep
    from captioner.lstm.cell import HDetachLSTMCell, hdetach_step
    from captioner.lstm.layer import HDetachLSTM
    from captioner.lstm.operator import hdetach_lstm
    from captioner.lstm.path_gradients import gradient_paths

_MODULES = {
    "gradient_paths": "captioner.lstm.path_gradients",
    "HDetachLSTM": "captioner.lstm.layer",
    "HDetachLSTMCell": "captioner.lstm.cell",
    "hdetach_lstm": "captioner.lstm.operator",
    "hdetach_step": "captioner.lstm.cell",
    "sample_keep": "captioner.hdetach.masks",
}

__all__ = [
    "HDetachLSTM",
    "HDetachLSTMCell",
    "gradient_paths",
    "hdetach_lstm",
    "hdetach_step",
    "sample_keep",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'captioner.lstm' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
