"""h-detach for recurrences that are written by hand, as the decoders' are.

`masks` draws which steps are detached, `packed_lstm` is an LSTM over packed rows that honours such
a mask, `gates` and `products` are the arithmetic of one step.
"""
