"""What a data module gives in one epoch of training, as Lightning asks for it."""

from typing import Any

from pytorch_lightning import LightningDataModule


def batches(data: LightningDataModule, epoch: int = 0) -> list[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)
