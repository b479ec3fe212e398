"""The wait policy of OpenMP's threads: a program of this project sleeps while it waits.

Threads that spin cost a busy machine up to thirty times the time of a step or a request; asleep,
they cost a quiet one about 3 %. Importing this does not import torch.
"""

import os


def wait_passively() -> None:
    """Let the threads of OpenMP sleep while they wait, unless the environment says otherwise.

    OpenMP reads the variable when torch is first loaded: a program calls this before. It counts
    for the processes that the program starts, too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
