"""Training and evaluation of captioners: the scripts, and what they are made of.

The way from the command to the loss is `train_coco.py`, `captioning.py`, an objective of
`objectives/`, a decoder.
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded
