"""The h-detach LSTM for any PyTorch program: layer, cell, and the functions underneath.

`HDetachLSTM` stands in for `torch.nn.LSTM`, `HDetachLSTMCell` for `torch.nn.LSTMCell`;
`hdetach_lstm` and `hdetach_step` are the functions underneath, `sample_keep` draws their masks.
"""

from captioner.hdetach.masks import sample_keep
from captioner.lstm.cell import HDetachLSTMCell, hdetach_step
from captioner.lstm.layer import HDetachLSTM
from captioner.lstm.operator import hdetach_lstm
from captioner.lstm.path_gradients import gradient_paths

__all__ = [
    "HDetachLSTM",
    "HDetachLSTMCell",
    "gradient_paths",
    "hdetach_lstm",
    "hdetach_step",
    "sample_keep",
]
