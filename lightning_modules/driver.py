"""Updates that look for no GPU's driver where there is none.

Adam, RMSprop and others ask in every update whether there is a GPU. Lightning sets a variable by
which PyTorch answers that from a library of NVIDIA's driver. A machine without it, with PyTorch's
usual build for Linux, searches its disk for that library each time: 0.1 ms, as long as the update.
"""

import ctypes
import os

import torch

VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"
LIBRARY = "libnvidia-ml.so.1"


def end_search() -> None:
    """Take the variable back where NVIDIA's driver is not installed, whoever has set it.

    It keeps forked processes from a GPU that their parent has begun to use; without a driver there
    is none. GPUs of AMD have another driver: nothing is changed there.
    """
    if torch.version.hip:
        return
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        os.environ.pop(VARIABLE, None)
