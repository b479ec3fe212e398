"""Memory allocator settings: keep large freed blocks for reuse.

A C library that maps every large tensor anew makes the kernel clear its pages each time; on a CPU a
convolutional network can spend half its time there. Programs of this project call
`keep_freed_memory` once when they start. The library itself changes nothing in the process.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Return whether freed memory is from now on kept for the next tensors of this process.

    It is False where the C library has no such setting, as on macOS. The process then holds on to
    its peak of memory.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_M_MMAP_MAX, 0)) and bool(set_option(_M_TRIM_THRESHOLD, _NEVER))
