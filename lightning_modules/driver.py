"""Updates that look for no GPU's driver where there is none.

Adam and RMSprop ask in every update whether there is a GPU. Lightning sets a variable by which
PyTorch answers that from a library of NVIDIA's driver. A machine without it, with PyTorch's usual
build for Linux, searches its disk for that library each time: 0.1 ms of updates that take 0.1 ms.
"""

import ctypes
import os

VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"
LIBRARY = "libnvidia-ml.so.1"


def search_once() -> None:
    """Take Lightning's variable back where there is no driver.

    It spares forked processes a GPU that was in use before; without a driver there is none.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        os.environ.pop(VARIABLE, None)
