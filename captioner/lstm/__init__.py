"""h-detach: the masks, and LSTM recurrences whose backward pass honours them."""
