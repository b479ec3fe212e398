"""How the process gets its memory: large blocks are kept for reuse instead of given back.

A C library that maps every large tensor anew makes the kernel clear its pages again and again;
on a CPU a convolutional network can spend half its time there. Programs of this project call
`keep_freed_memory` once when they start; the library itself leaves the process as it is.
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
