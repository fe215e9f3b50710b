"""One of two processes that train every shipped model for one update; not a test itself."""

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor
from torch.nn.utils import parameters_to_vector

import datamodules
import lightning_modules


def update(config: Path, root: str, **distributed: Any) -> Tensor:
    """Return what an update on a batch of eight in all changes in the weights, (numbers,).

    Equations are solved to 1e-5: at the tolerance of the configurations, the steps that half a
    batch takes would change the gradient by more than a tenth. Traces are exact: every rank would
    draw its own noise to estimate them.
    """
    settings = yaml.safe_load(config.read_text())
    given, data_given = (settings[part]["init_args"] for part in ("model", "data"))
    given["solver"] |= {"rtol": 1e-5, "atol": 1e-5}
    given["optimizer"] |= {"name": "sgd"}  # others forget the size of the gradient
    data_given |= {"batch_size": 8}
    data_given |= {"root": root, "seed": 0} if "root" in data_given else {"steps": 1}
    if "trace" in given:
        given["trace"] = "exact"
    pl.seed_everything(0, verbose=False)
    model = _class(lightning_modules, settings["model"])(**given)
    data = _class(datamodules, settings["data"])(**data_given)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **distributed,
    )
    before = parameters_to_vector(model.net.parameters()).detach().clone()
    trainer.fit(model, datamodule=data)
    return parameters_to_vector(model.net.parameters()).detach() - before


def _class(package: ModuleType, part: dict[str, Any]) -> Any:
    return getattr(package, part["class_path"].rpartition(".")[2])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    root, out, *configs = sys.argv[1:]
    found = {Path(c).stem: update(Path(c), root, strategy="ddp", devices=2) for c in configs}
    torch.save(found, Path(out, f"rank{torch.distributed.get_rank()}.pt"))
