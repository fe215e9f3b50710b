"""Measures one point of `costs`: ``python -m reproduce.point JSON``; prints JSON.

A point names the body between stem and head, which are the same for all and left out:
``{"body": "resnet", "size": 16}`` is 16 residual blocks, ``{"body": "adjoint", "size": 64}`` the
ODE-Net's field over t in [0, 1] in 64 Euler steps with that gradient (``direct``, ``checkpoint``
or ``adjoint``), ``{"body": "equal_depth"}`` the ODE-Net of Table 1 against as many residual blocks
as it evaluates its field. ``batch``, ``rounds``, ``device``, ``width``, ``groups`` and ``pixels``
(the side of the feature maps) may be given.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.nets import ConvField, OdeBlock, ResidualBlock
from lightning_modules.solvers import SolverSettings, collect_stats
from reproduce import memory
from reproduce.allocator import keep_freed_memory
from reproduce.precision import allow_tf32
from reproduce.statistics import mean_interval
from reproduce.timing import interleave

BODIES = ("resnet", "direct", "checkpoint", "adjoint", "equal_depth")
DEFAULTS: dict[str, Any] = {
    "size": 1,
    "batch": 32,
    "rounds": 5,
    "device": "cpu",
    "width": 64,
    "groups": 32,
    "pixels": 7,
}


def measure(point: dict[str, Any]) -> dict[str, float]:
    """Measure memory and time of one forward and backward pass.

    Returns:
        For a body: ``memory`` (MiB, its peak less the level before), ``seconds`` of the pass,
        ``units`` (its time over that of one block, or of one evaluation of the field with its
        vector-Jacobian product, in the same rounds: their mean, ``_low`` and ``_high`` its 95 %
        interval), ``resident`` (MiB by which the first pass made the process grow, gradients of
        the parameters included), ``state`` (MiB of one state) and evaluations. For
        ``equal_depth``: the time of the ODE-Net over that of the blocks, by gradient, and their
        number.
    """
    unknown = set(point) - {"body", *DEFAULTS}
    if unknown or "body" not in point:
        raise ValueError(f"A point has body and {', '.join(DEFAULTS)}; got {point}.")
    given = {**DEFAULTS, **point}
    if given["body"] not in BODIES:
        raise ValueError(f"Unknown body {given['body']!r}. Choose one of {', '.join(BODIES)}.")
    if given["size"] < 1:
        raise ValueError(f"size is {given['size']}; give at least 1.")
    torch.manual_seed(0)
    shape = (given["batch"], given["width"], given["pixels"], given["pixels"])
    features = torch.randn(shape, device=given["device"])
    return (
        _equal_depth(given, features) if given["body"] == "equal_depth" else _body(given, features)
    )


def _body(given: dict[str, Any], features: Tensor) -> dict[str, float]:
    width, groups, size = given["width"], given["groups"], given["size"]
    unit: nn.Module
    if given["body"] == "resnet":
        body: nn.Module = _blocks(size, width, groups)
        unit = _blocks(1, width, groups)
    else:
        settings = SolverSettings(
            backend="native", method="euler", step_size=1 / size, gradient=given["body"]
        )
        body = OdeBlock(ConvField(width, groups), settings)
        unit = _AtOneTime(ConvField(width, groups))
    step, one = (
        _pass(body.to(features.device), features),
        _pass(unit.to(features.device), features),
    )
    one()  # libraries and threads exist from here on
    before = memory.of_process("VmHWM")
    step()
    grown = memory.of_process("VmHWM") - before
    peak = memory.peak(step, given["device"])  # gradients and other lasting buffers exist by now
    timings = interleave({"step": step, "unit": one}, given["rounds"], warm_up=1)
    with collect_stats() as solves:
        step()
    units = mean_interval(timings["step"].ratios_to(timings["unit"]))
    return {
        "memory": peak,
        "seconds": timings["step"].median,
        "units": units.value,
        "units_low": units.low,
        "units_high": units.high,
        "resident": grown,
        "state": features.numel() * features.element_size() / memory.MIB,
        "nfe_forward": sum(s.nfe_forward for s in solves),
        "nfe_backward": sum(s.nfe_backward for s in solves),
    }


def _equal_depth(given: dict[str, Any], features: Tensor) -> dict[str, float]:
    width, groups = given["width"], given["groups"]
    field = ConvField(width, groups)
    work: dict[str, Callable[[], object]] = {}
    depth = 0
    for gradient in ("adjoint", "checkpoint", "direct"):
        settings = SolverSettings(backend="native", gradient=gradient)
        block = OdeBlock(field, settings).to(features.device)
        work[gradient] = _pass(block, features)
        with collect_stats() as solves:
            work[gradient]()
        depth = sum(solve.nfe_forward for solve in solves)
    work["blocks"] = _pass(_blocks(depth, width, groups).to(features.device), features)
    timings = interleave(work, given["rounds"], warm_up=1)
    names = {"adjoint": "", "checkpoint": "_checkpoint", "direct": "_direct"}
    values: dict[str, float] = {"blocks": depth}
    for name, end in names.items():
        ratio = mean_interval(timings[name].ratios_to(timings["blocks"]))
        values[f"time_ratio{end}"] = ratio.value
        values |= {f"time_ratio{end}_low": ratio.low, f"time_ratio{end}_high": ratio.high}
    return values


class _AtOneTime(nn.Module):
    """The field as a layer."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("t", torch.tensor(0.5))

    def forward(self, y: Tensor) -> Tensor:
        return self.field(self.t, y)


def _blocks(count: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, groups) for _ in range(count)))


def _pass(body: nn.Module, features: Tensor) -> Callable[[], object]:
    """Return one forward and backward pass; gradients are zeroed in place and stay allocated."""
    start = features.clone().requires_grad_()

    def work() -> None:
        for tensor in (start, *body.parameters()):
            if tensor.grad is not None:
                tensor.grad.zero_()
        body(start).square().mean().backward()

    return work


if __name__ == "__main__":
    keep_freed_memory()
    allow_tf32(False)
    print(json.dumps(measure(json.loads(sys.argv[1]))))
