"""Whether float32 is float32 on a GPU, in every process that trains or measures."""

import torch


def allow_tf32(allowed: bool) -> None:
    """Let products and convolutions in float32 round their factors to TF32, or not.

    torch's own default is no for products and yes for convolutions, which would be another
    experiment than the one that the rows name.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
