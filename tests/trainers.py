"""A trainer that neither prints nor writes."""

from typing import Any

import pytorch_lightning as pl


def quiet_trainer(**given: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu"}  # fmt: skip
    return pl.Trainer(**{**quiet, **given})
