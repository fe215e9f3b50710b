"""Measures points of `million_steps`: ``python -m reproduce.long_solve JSON``; prints JSON.

A point is one forward and backward pass through a small network's field by Euler's method:
``{"gradient": "adjoint", "steps": [10, 100]}``; ``batch``, ``states``, ``hidden`` and ``limit``
(MiB that a pass may take) may be given. Everything is in float64, over t in [0, 1], on one thread.
"""

import ctypes
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, odeint
from reproduce import memory

GRADIENTS = ("direct", "checkpoint", "adjoint")
DEFAULTS: dict[str, Any] = {"batch": 128, "states": 16, "hidden": 16, "limit": None}
COUNTED = 1000  # most steps whose every tensor is watched, which takes ten times as long
_CLEAR = Path("/proc/self/clear_refs")


class Perceptron(nn.Module):
    """dy/dt = W₂ tanh(W₁ y + b₁) + b₂, without a backward pass of its own."""

    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(states, hidden), nn.Tanh(), nn.Linear(hidden, states)
        ).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(batch, states)``."""
        found: Tensor = self.layers(y)
        return found


def measure(point: dict[str, Any]) -> dict[str, float]:
    """Measure memory, time and gradient of every number of steps, one after another.

    Returns:
        For every number n: ``memory_<n>``, MiB by which the process grew, or up to 1,000 steps
        those of all tensors alive at the same time if they are more, since a process uses again
        what it has freed; ``seconds_<n>`` of processor time, which other work on the machine
        hardly lengthens; and ``error_<n>``, the largest relative error of the gradient by initial
        state and parameters against back-propagation through dopri8 at 1e-11.

    Raises:
        ValueError: If the point is not one.
        MemoryError: If a pass would take more than its limit.
    """
    unknown = set(point) - {"gradient", "steps", *DEFAULTS}
    if unknown or not {"gradient", "steps"} <= set(point):
        raise ValueError(f"A point has gradient, steps and {', '.join(DEFAULTS)}; got {point}.")
    given = {**DEFAULTS, **point}
    if given["gradient"] not in GRADIENTS:
        raise ValueError(
            f"Unknown gradient {given['gradient']!r}. Choose one of {', '.join(GRADIENTS)}."
        )
    if min(given["steps"]) < 1:
        raise ValueError(f"steps are {given['steps']}; give at least 1 each.")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    field = Perceptron(given["states"], given["hidden"])
    y0 = torch.randn(given["batch"], given["states"], dtype=torch.float64)
    _gradients(field, y0, _euler(given["gradient"], 3))  # libraries and buffers exist from here on
    values: dict[str, float] = {}
    for steps in given["steps"]:
        settings = _euler(given["gradient"], steps)
        work = partial(_gradients, field, y0, settings)
        found, grown, seconds = _pass(work, steps, given["limit"])
        if steps <= COUNTED:
            grown = max(grown, memory.peak(work))
        values |= {f"memory_{steps}": grown, f"seconds_{steps}": seconds}
        values[f"error_{steps}"] = _error(found, _truth(field, y0))
    return values


def _pass(
    work: Callable[[], list[Tensor]], steps: int, limit: float | None
) -> tuple[list[Tensor], float, float]:
    """Return the gradients, the MiB by which the process grew, and seconds."""
    _trim()
    before, began = memory.of_process("VmRSS"), time.process_time()
    try:
        with _Limit(limit):
            found = work()
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if limit is None or not full:
            raise
        raise MemoryError(
            f"{steps:,} steps took more than the {limit:,.0f} MiB that they may: {error}"
        ) from error
    seconds = time.process_time() - began
    return found, memory.of_process("VmHWM") - before, seconds


def _gradients(field: nn.Module, y0: Tensor, settings: SolverSettings) -> list[Tensor]:
    """Return the gradients of the mean square at t = 1 by initial state and parameters."""
    start = y0.clone().requires_grad_()
    end = odeint(field, start, torch.tensor([0.0, 1.0], dtype=torch.float64), settings).ys[-1]
    return list(torch.autograd.grad(end.square().mean(), (start, *field.parameters())))


def _euler(gradient: str, steps: int) -> SolverSettings:
    return SolverSettings(
        "native",
        "euler",
        step_size=1 / steps,
        max_steps=steps,
        gradient=gradient,  # type: ignore[arg-type]
    )


def _truth(field: nn.Module, y0: Tensor) -> list[Tensor]:
    return _gradients(field, y0, SolverSettings("native", "dopri8", rtol=1e-11, atol=1e-11))


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    return max(
        float((one - true).norm() / true.norm()) for one, true in zip(found, truth, strict=True)
    )


class _Limit:
    """Lets the process allocate no more than so many MiB on top of what it has, where it can."""

    def __init__(self, mib: float | None) -> None:
        self._mib = mib if memory.STATUS.exists() else None  # elsewhere the system ignores it
        self._before = resource.getrlimit(resource.RLIMIT_DATA)

    def __enter__(self) -> None:
        if self._mib is not None:
            most = int((memory.of_process("VmData") + self._mib) * memory.MIB)
            resource.setrlimit(resource.RLIMIT_DATA, (most, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, self._before)


def _trim() -> None:
    """Hand freed memory back and forget earlier peaks, or what is allocated next is not seen."""
    if _CLEAR.exists():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        _CLEAR.write_text("5")


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
