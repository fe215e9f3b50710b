"""How the C library keeps freed memory.

A training step frees and allocates the same buffers of some megabytes again and again. By default
glibc hands such memory back to the system and fetches it again page by page, which on a small CPU
took up to 5 % of a training step.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep memory it has freed, for the next allocation of that size.

    Returns:
        Whether the C library took the settings; other libraries than glibc do not.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {
        _MMAP_THRESHOLD: 32 * 2**20,  # the largest that glibc allows
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 64 * 2**20,
    }
    return all([mallopt(name, value) == 1 for name, value in wanted.items()])
