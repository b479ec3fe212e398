"""Choice of a device by its name on the command line."""

import torch

from captioner.errors import OptionError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is the first CUDA device, else the CPU.

    Raises:
        OptionError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).splitlines()[0]
        raise OptionError(
            f"device is {name!r}, which this machine cannot use ({reason}); "
            "give cpu, or cuda where there is a GPU"
        ) from problem
    if device.type == "meta":
        raise OptionError("device is 'meta', which computes nothing; give cpu or cuda")
    return device
