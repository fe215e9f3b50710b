"""What a benchmark measures: problems, sizes and libraries, by the profile and what users set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reproduce.benchmark_rows import MARK
from reproduce.contest import Plan
from reproduce.context import Context
from reproduce.jobs import BadSettings

PROBLEMS: dict[str, dict[str, Any]] = {
    "spiral": {},
    "cnf": {},
    "latent": {},
    "odenet": {"batch": 8},
    "linear": {},
    "van_der_pol": {},
    "van_der_pol_stiff": {},
}
# What they are called where people read of them.
TITLES = {
    "spiral": "spiral",
    "cnf": "flow",
    "latent": "latent ODE",
    "odenet": "ODE-Net's field",
    "linear": "linear",
    "van_der_pol": "van der Pol",
    "van_der_pol_stiff": "stiff van der Pol",
    "own": "a field of one's own",
}
# Each of these is another program for every size, and none of them the fastest of its library.
_WITHOUT_SIZES = ("each", "unfactored", "torchode_compiled")
_SINGLE = 1e-6  # float32 cannot be asked for less
_DOUBLES = ("linear", "van_der_pol", "van_der_pol_stiff")


def plans(ctx: Context, given: Mapping[str, Any]) -> dict[str, Plan]:
    """Return what is measured, by the beginning of its rows.

    Args:
        ctx: The context.
        given: What its profile says.

    Raises:
        BadSettings: If it does not fit the device, or if the user asked for what there is not.
    """
    import torch

    from reproduce.peers import ALTERNATIVES

    _refuse_other_devices(ctx)
    changes = dict(ctx.changes)
    alternatives = given.get("alternatives", _on(ctx.device))
    if "data.alternatives" in changes:
        chosen = str(changes.pop("data.alternatives")).split(",")
        alternatives = _known([name.strip() for name in chosen], ALTERNATIVES)
    common = {name: given[name] for name in ("rounds", "seconds", "least")}
    common |= {"threads": torch.get_num_threads(), "device": ctx.device}
    own = _own(changes)
    if changes:
        raise BadSettings(f"benchmark has no setting {', '.join(changes)}; see its docstring.")
    if own is not None and ctx.only:
        raise BadSettings("A field of your own is the only problem then; leave --only out.")
    problems = given["problems"]
    if ctx.only:
        problems = {name: problems.get(name, sizes) for name, sizes in PROBLEMS.items()}
    if own is not None:
        problems = {"own": own}
    found = {}
    for name, sizes in problems.items():
        found[name] = Plan(
            problem=name,
            sizes=sizes,
            alternatives=alternatives,
            tolerances=_tolerances(name, sizes, given["tolerances"]),
            **common,
        )
    for name, listed in ({} if own else given["sizes"]).items():
        for size in listed:
            together = [a for a in alternatives if not a.endswith(_WITHOUT_SIZES)]
            found[f"{name}_{'x'.join(map(str, size))}"] = Plan(
                problem=name,
                sizes=dict(zip(("batch", "state"), size, strict=False)),
                alternatives=together,
                tolerances=[MARK],
                errors=False,
                **common,
            )
    elsewhere = f" under {ctx.profile}"
    if ctx.profile in ("smoke", "quick"):
        elsewhere += "; short and paper have more sizes"
    return {label: found[label] for label in _known(ctx.only, found, elsewhere) or found}


def _own(changes: dict[str, Any]) -> dict[str, Any] | None:
    """Take what is set of a field of the user's own out of the changes."""
    from reproduce.problems.own import DEFAULTS, own

    beginning = "model.field."
    mine = {k.removeprefix(beginning): changes.pop(k) for k in list(changes) if beginning in k}
    if not mine:
        return None
    sizes = {k: changes.pop(f"data.{k}", value) for k, value in DEFAULTS.items()}
    given = mine.pop("init_args", {})
    if not isinstance(given, Mapping):
        raise BadSettings(
            f"model.field.init_args is {given!r}; give a mapping such as {{width: 8}}, or each "
            "argument as model.field.init_args.NAME=VALUE."
        )
    arguments = dict(given)
    for key in list(mine):
        if key.startswith("init_args."):
            arguments[key.removeprefix("init_args.")] = mine.pop(key)
    if list(mine) != ["class_path"]:
        raise BadSettings(
            f"A field has class_path and init_args; given were {sorted(mine)}. What its class "
            "takes is set as model.field.init_args.NAME."
        )
    named = {"class_path": mine["class_path"], "init_args": arguments}
    try:
        own(named, **sizes)  # refused here, before anything is measured
    except ValueError as error:
        raise BadSettings(str(error)) from error
    return {"field": named, **sizes}


def _refuse_other_devices(ctx: Context) -> None:
    """Keep CPUs and GPUs apart: the marks of ``short`` and of ``paper`` are for one of them."""
    wanted = {"short": "cpu", "paper": "cuda"}.get(ctx.profile, ctx.device)
    if wanted != ctx.device:
        raise BadSettings(
            f"benchmark --profile {ctx.profile} was asked for on {ctx.device}, and its marks are "
            f"for {wanted}. Say --device {wanted}, or --profile quick for any."
        )


def _on(device: str) -> list[str]:
    """Return the alternatives that there are on a type of device."""
    from reproduce.peers import ALTERNATIVES, ON

    return [name for name in ALTERNATIVES if ON.get(name, device) == device]


def _known(names: Sequence[str], known: Collection[str], where: str = "") -> Sequence[str]:
    """Return the names, all of which must be known; ``where`` they are is for the message."""
    unknown = [repr(name) for name in names if name not in known]
    if unknown:
        raise BadSettings(f"Unknown {', '.join(unknown)}. Choose of {', '.join(known)}{where}.")
    return names


def _tolerances(name: str, sizes: Mapping[str, Any], given: Sequence[float]) -> list[float]:
    """Return the tolerances that the numbers of a problem resolve."""
    dtype = sizes.get("dtype", "float64" if name in _DOUBLES else "float32")
    return [t for t in given if dtype == "float64" or t >= _SINGLE]
