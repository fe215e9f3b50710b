"""Trainings in this process: the imports of a child take longer than a small training."""

import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from reproduce import train
from reproduce.jobs import Job

CONFIGS = sorted(p.name for p in (resources.files("reproduce") / "configs").iterdir())


def train_main(arguments: list[str]) -> int:
    """Do what ``python -m reproduce.train`` does with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reproduce.train", *arguments])
        return train.main()


def train_job(job: Job, folder: Path, *_: object) -> int:
    """Stand in for ``jobs._train``, which starts a child process."""
    config = yaml.safe_load(yaml.safe_dump(job.resolved))
    config["trainer"]["default_root_dir"] = str(folder)
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    return train_main(["run", "--config", str(folder / "job.yaml")])
