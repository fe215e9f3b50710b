"""Networks that were trained before, from the weights beside their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_modules import Classifier, ImageClassifier
from lightning_modules.nets import OdeBlock
from reproduce import classification, evidence, restored, weights
from reproduce.context import Context

TABLE, ROW = "table1", "odenet"


@dataclass(frozen=True)
class Trained:
    """One trained ODE-Net.

    Args:
        seed: Seed of its training.
        budget: How it was trained, in words.
        stem, field, head: Its parts.
        curves: Its training curves: metric, update, value.
        row: Row of the table that it was trained for.
        run: Identity of its training.
    """

    seed: int
    budget: str
    stem: nn.Module
    field: nn.Module
    head: nn.Module
    curves: tuple[tuple[str, int, float], ...]
    row: str = ROW
    run: str = ""

    @property
    def text(self) -> str:
        """Which net this is, in words."""
        own = "" if self.row == ROW else f"{self.row} ({self.run}): "
        return f"{own}{self.budget}, seed {self.seed}"

    @property
    def prefix(self) -> str:
        """What the rows of an experiment that measures it begin with; empty for our own net."""
        return "" if self.row == ROW else f"{self.row}_"

    def parts(self, device: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, ...]:
        """Return stem, field and head there and so; they are this net's own."""
        return tuple(part.to(device, dtype) for part in (self.stem, self.field, self.head))

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return updates and values of one metric, in order."""
        return sorted((update, value) for name, update, value in self.curves if name == metric)


def classifier(path: Path) -> tuple[ImageClassifier, dict[str, Any]]:
    """Return the classifier of a weights file, and the facts that were written with it."""
    return restored.of_file(path, ImageClassifier)


def _parts(
    path: Path, model: Classifier, facts: dict[str, Any]
) -> tuple[nn.Module, nn.Module, nn.Module]:
    found = list(model.net.children())
    if len(found) != 3 or not isinstance(found[1], OdeBlock):
        raise ValueError(f"{path} holds the network of {facts.get('row')}, which has no field.")
    return found[0], found[1].field, found[2]


def odenet(ctx: Context, profile: str | None) -> Trained:
    """Return one trained ODE-Net of Table 1, that of the lowest seed; see `odenets`."""
    return odenets(replace(ctx, seeds=(0,)), profile)[0]


def odenets(ctx: Context, profile: str | None) -> list[Trained]:
    """Return the trained ODE-Nets of Table 1, at most as many as there are seeds.

    Where there are none, they are trained first, with the profile of the context, and the rows of
    that training are kept.

    Args:
        ctx: The context.
        profile: As in `evidence.find_weights`.

    Raises:
        FileNotFoundError: If there is none and training it failed; the message says how to go on.
    """
    try:
        paths = evidence.find_weights(TABLE, ROW, [ctx.out], profile)
    except FileNotFoundError as error:
        print(f"{error} Doing so now, with profile {ctx.profile}.", flush=True)
        budget = classification.profiles({})[ctx.profile]
        classification.run(ctx, TABLE, budget, [ROW], again=True)
        paths = evidence.find_weights(TABLE, ROW, [ctx.out], profile)
    return [_odenet(path) for path in paths[: len(ctx.seeds)]]


def _odenet(path: Path) -> Trained:
    model, facts = classifier(path)
    return of_net(path, model, facts)


def of_net(path: Path, model: Classifier, facts: dict[str, Any], row: str = ROW) -> Trained:
    """Return the net of a weights file, its model loaded, with its curves if those are there too.

    Raises:
        ValueError: If it is another network, or without seed, run or budget.
    """
    lines = path.parents[1] / "curves" / f"{path.stem.partition('-')[0]}.csv"
    kept = evidence.read(lines, evidence.CURVE) if lines.exists() else []
    curves = tuple(
        (line["metric"], int(line["update"]), float(line["value"]))
        for line in kept
        if line["run"] == facts.get("run")
    )
    with weights.fitting(path):
        found = _parts(path, model, facts)
        return Trained(facts["seed"], facts["budget"], *found, curves, row, facts["run"])
