"""Trained ODE-Nets around a vector field of the user's own, from the weights beside their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules import FieldClassifier
from lightning_modules.solvers import import_backend
from reproduce import classification, evidence, own_code, trained, weights
from reproduce.context import Context
from reproduce.own_rows import OwnRow
from reproduce.trained import TABLE, Trained


def odenets(ctx: Context, profile: str | None) -> list[Trained]:
    """Return the nets of the user's rows in Table 1, of each at most as many as there are seeds.

    A row without weights is trained first, with the profile of the context. The class of a field
    is imported from where the user's YAML names it, never from where a file of weights does.

    Args:
        ctx: The context.
        profile: As in `evidence.find_weights`.

    Raises:
        ValueError: If a row is no ODE-Net, or if its weights are those of another field.
        FileNotFoundError: If there are none and training failed; the message says how to go on.
    """
    return [net for row in ctx.own for net in _of_row(replace(ctx, own=(row,)), row, profile)]


def _of_row(ctx: Context, row: OwnRow, profile: str | None) -> list[Trained]:
    model = row.sections["model"]
    if not row.class_path.endswith("FieldClassifier") or not row.states("model.field"):
        raise ValueError(
            f"row {row.name} is {row.class_path}, of which the field is not known. Measured are "
            "rows of lightning_modules.FieldClassifier that state model.field."
        )
    _import_backend(model["init_args"])
    try:
        paths = evidence.find_weights(TABLE, row.name, [ctx.out], profile)
    except FileNotFoundError:
        print(f"No weights of {row.name} yet: training it with profile {ctx.profile}.", flush=True)
        profiles = classification.profiles({})
        classification.run(ctx, TABLE, profiles[ctx.profile], [], again=True)
        paths = evidence.find_weights(TABLE, row.name, [ctx.out], profile)
    return [_odenet(path, row) for path in paths[: len(ctx.seeds)]]


def _import_backend(given: Mapping[str, Any]) -> None:
    solver = given.get("solver")
    backend = solver.get("backend") if isinstance(solver, dict) else None
    if isinstance(backend, str) and ":" in backend:
        import_backend(backend)


def _odenet(path: Path, row: OwnRow) -> Trained:
    state, facts = weights.load(path)
    named = row.sections["model"]["init_args"]["field"]
    if facts.get("field") != named:
        raise ValueError(
            f"{path} has weights of the field {facts.get('field')}, and {row.name}.yaml names "
            f"{named}. Remove the file and run again."
        )
    field = built(named)
    known, code = facts.get("code", {}), own_code.digests(row.sections["model"])
    if known != code:
        edited = " and ".join(sorted({module for module, _ in known.items() ^ code.items()}))
        raise ValueError(
            f"{path} has weights of another state of {edited}, which {row.name}.yaml names. "
            "Remove the file and run again."
        )
    with weights.fitting(path):
        model = FieldClassifier(field, **facts["hyper_parameters"])
        model.net.load_state_dict(state)
    return trained.of_net(path, model.eval(), facts, row.name)


def built(named: Any) -> nn.Module:
    """Return the module that a configuration names: ``class_path`` and ``init_args``.

    It is built as a training builds it: numbers that are written as text, and classes that are
    named within, are what the class says that they are.

    Raises:
        ValueError: If it cannot be imported or built.
    """
    from jsonargparse import ArgumentParser

    if not isinstance(named, Mapping) or not isinstance(named.get("class_path"), str):
        raise ValueError(f"The field {named!r} names no class: state class_path.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "field", fail_untyped=False, required=True)
    try:
        field = parser.instantiate_classes(parser.parse_object({"field": named})).field
    except Exception as error:  # of whatever the user's module and class do
        reason = " ".join(str(error).split())
        # Of what the parser says, the part about the class.
        reason = re.sub(
            r"^Parser key .*? Errors: - | - Expected a <class 'NoneType'>.*", "", reason
        )
        raise ValueError(f"The field {named} cannot be built: {reason}") from error
    assert isinstance(field, nn.Module)
    return field
