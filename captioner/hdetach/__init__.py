"""h-detach for recurrences that are written by hand, as the decoders' are.

Begin with `masks`, which draws from `--p` the steps to detach. `packed_lstm` is an LSTM over packed
rows that follows such a mask; `gates` and `products` are the arithmetic of one step. The layer for
other programs is in `captioner.lstm`.
"""
