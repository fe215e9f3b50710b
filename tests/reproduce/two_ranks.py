"""One of two processes that train every shipped model for one update; not a test itself."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datamodules import MNIST
from lightning_modules import ImageClassifier


def update(config: Path, root: str, **distributed: Any) -> Tensor:
    """Return what an update on a batch of eight images in all changes in the weights, (numbers,).

    Equations are solved to 1e-5: at the tolerance of the configurations, the steps that half a
    batch takes would change the gradient by more than a tenth.
    """
    settings = yaml.safe_load(config.read_text())
    settings["model"]["init_args"]["solver"] |= {"rtol": 1e-5, "atol": 1e-5}
    pl.seed_everything(0, verbose=False)
    model = ImageClassifier(**settings["model"]["init_args"])
    data = MNIST(**{**settings["data"]["init_args"], "root": root, "batch_size": 8, "seed": 0})
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **distributed,
    )
    before = parameters_to_vector(model.net.parameters()).detach().clone()
    trainer.fit(model, datamodule=data)
    return parameters_to_vector(model.net.parameters()).detach() - before


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    root, out, *configs = sys.argv[1:]
    found = {Path(c).stem: update(Path(c), root, strategy="ddp", devices=2) for c in configs}
    torch.save(found, Path(out, f"rank{torch.distributed.get_rank()}.pt"))
