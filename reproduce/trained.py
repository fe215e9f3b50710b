"""Networks that were trained before, from the weights beside their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lightning_modules import ImageClassifier
from lightning_modules.nets import OdeBlock
from reproduce import classification, evidence, weights
from reproduce.context import Context
from reproduce.records import PROFILES

TABLE, ROW = "table1", "odenet"
SHIPPED = Path(__file__).parent.parent / "results"


def find(experiment: str, row: str, folders: Sequence[Path], profile: str | None = None) -> Path:
    """Return the weights of a row, of the longest training that any folder has.

    Args:
        experiment: Name of the experiment that trained it.
        row: Its row.
        folders: Folders of results; the shipped ones come last.
        profile: Profile of what is to be measured. Under one that carries verdicts, only a net
            that was trained under the same will do; under others, or None, any.

    Raises:
        FileNotFoundError: If there are none; the message says how to make them.
    """
    places = [folder / experiment / "weights" for folder in (*folders, SHIPPED)]
    profiles = (profile,) if profile in ("paper", "short") else PROFILES
    paths = [place / f"{p}-{row}.safetensors" for p in profiles for place in places]
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"No weights of {row} under {' or '.join(profiles)} in {', '.join(map(str, places))}. "
        f"Train it first: python -m reproduce {experiment} --profile {profiles[-1]}."
    )


@dataclass(frozen=True)
class Trained:
    """One trained ODE-Net.

    Args:
        seed: Seed of its training.
        budget: How it was trained, in words.
        stem, field, head: Its parts.
        curves: Its training curves: metric, update, value.
    """

    seed: int
    budget: str
    stem: nn.Module
    field: nn.Module
    head: nn.Module
    curves: tuple[tuple[str, int, float], ...]

    @property
    def text(self) -> str:
        """Which net this is, in words."""
        return f"{self.budget}, seed {self.seed}"

    def parts(self, device: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, ...]:
        """Return stem, field and head there and so; they are this net's own."""
        return tuple(part.to(device, dtype) for part in (self.stem, self.field, self.head))

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return updates and values of one metric, in order."""
        return sorted((update, value) for name, update, value in self.curves if name == metric)


def classifier(path: Path) -> tuple[ImageClassifier, dict[str, Any]]:
    """Return the classifier of a weights file, and the facts that were written with it."""
    state, facts = weights.load(path)
    model = ImageClassifier(**facts["hyper_parameters"])
    model.net.load_state_dict(state)
    return model.eval(), facts


def parts(path: Path) -> tuple[nn.Module, nn.Module, nn.Module, dict[str, Any]]:
    """Return stem, field and head of a trained ODE-Net, and the facts that go with it.

    Raises:
        ValueError: If the file holds another network.
    """
    model, facts = classifier(path)
    stem, block, head = model.net
    if not isinstance(block, OdeBlock):
        raise ValueError(f"{path} holds the network of {facts['row']}, which has no field.")
    return stem, block.field, head, facts


def odenet(ctx: Context, profile: str | None) -> Trained:
    """Return one trained ODE-Net of Table 1, that of the lowest seed; see `odenets`."""
    return odenets(replace(ctx, seeds=(0,)), profile)[0]


def odenets(ctx: Context, profile: str | None) -> list[Trained]:
    """Return the trained ODE-Nets of Table 1, at most as many as there are seeds.

    The weights beside the rows are those of one seed; the others are found in their run folders,
    where those are, if they were trained in the same way. Where there are none at all, they are
    trained first, with the profile of the context, and the rows of that training are kept.

    Args:
        ctx: The context.
        profile: As in `find`.

    Raises:
        FileNotFoundError: If there is none and training it failed; the message says how to go on.
    """
    folders = [ctx.out]
    try:
        path = find(TABLE, ROW, folders, profile)
    except FileNotFoundError as error:
        print(f"{error} Doing so now, with profile {ctx.profile}.", flush=True)
        budget = classification.profiles({})[ctx.profile]
        classification.run(ctx, TABLE, budget, [ROW], again=True)
        path = find(TABLE, ROW, folders, profile)
    stem, field, head, facts = parts(path)
    lines = path.parents[1] / "curves" / f"{path.stem.partition('-')[0]}.csv"
    kept = evidence.read(lines, evidence.CURVE) if lines.exists() else []
    curves = tuple(
        (line["metric"], int(line["update"]), float(line["value"]))
        for line in kept
        if line["run"] == facts["run"]
    )
    seed, budget_text = facts["seed"], facts["budget"]
    found = {seed: Trained(seed, budget_text, stem, field, head, curves)}
    for folder in sorted((ctx.runs / TABLE).glob(f"{ROW}-seed*")):
        other = _from_run(folder, budget_text)
        if other is not None:
            found.setdefault(other.seed, other)
    return [found[seed] for seed in sorted(found)][: len(ctx.seeds)]


def _from_run(folder: Path, budget: str) -> Trained | None:
    """Return the net of a finished run with this budget; None for any other folder."""
    checkpoint, job = folder / "checkpoints" / "last.ckpt", folder / "job.yaml"
    if not ((folder / "summary.json").exists() and checkpoint.exists() and job.exists()):
        return None
    config = yaml.safe_load(job.read_text())
    if classification.budget(config) + classification.solver_text(config) != budget:
        return None
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = ImageClassifier(**content["hyper_parameters"])
    state = content["state_dict"].items()
    model.net.load_state_dict({n.removeprefix("net."): t for n, t in state if n[:4] == "net."})
    stem, block, head = model.eval().net
    assert isinstance(block, OdeBlock)
    curves = tuple((name, int(n), float(value)) for n, name, value in evidence.curves(folder))
    return Trained(config["seed_everything"], budget, stem, block.field, head, curves)
