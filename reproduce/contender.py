"""One library in a process of its own: ``python -m reproduce.contender JSON``.

The JSON names ``problem``, ``sizes``, ``threads``, ``device`` and the file of the ``reference``
(null: errors are not measured). Orders come as JSON, a line each, and are answered by one line:

- ``{"do": "reference"}`` writes the reference.
- ``{"do": "prepare", "alternative": …, "tolerances": […]}`` makes ready, and tells of each
  tolerance errors, steps, evaluations, shares and memory, and how long the first two calls took.
- ``{"do": "time", "alternative": …, "work": "forward" | "step" | "field", "tolerance": …,
  "least": …}`` repeats until that many seconds have passed, and tells the mean of a call.

An order that fails is answered by ``skipped`` or ``failed`` with the reason.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.peers import Peer

FIELD_CALLS = 64
FIRST = 2  # calls in which everything is compiled: ours is at the second solve of its kind
USELESS = 0.1  # a relative error from which on not one digit is right


class Contender:
    """A library that has been given a problem.

    Args:
        given: What the JSON says.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._peers: dict[str, Peer] = {}

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out an order; say why not instead of raising."""
        from reproduce.peers import Skip

        doing: dict[str, Callable[..., dict[str, Any]]] = {
            "reference": self._reference,
            "prepare": self._prepare,
            "time": self._time,
        }
        try:
            arguments = {key: value for key, value in order.items() if key != "do"}
            return doing[order["do"]](**arguments)
        except Skip as reason:
            return {"skipped": str(reason)}
        except Exception as error:  # of whatever library this is
            lines = str(error).strip().splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {lines[0]}"}

    def _reference(self) -> dict[str, Any]:
        import numpy as np

        from reproduce.problems import build
        from reproduce.problems.exact import exact

        problem = build(self._given["problem"], **self._given["sizes"])
        states, gradient = exact(problem.to(self._given["device"]))
        np.savez(self._given["reference"], states=states, gradient=gradient)
        return {}

    def _prepare(self, alternative: str, tolerances: list[float]) -> dict[str, Any]:
        from reproduce.peers import prepare
        from reproduce.problems import build

        problem = build(self._given["problem"], **self._given["sizes"])
        peer = prepare(alternative, problem.to(self._given["device"]))
        found: dict[str, Any] = {}
        for name, call in (("forward", peer.forward), ("step", peer.step)):
            found[f"first_{name}_s"] = _seconds(call, tolerances[0], calls=FIRST)
        peer.evaluate(FIELD_CALLS)
        found["memory_mib"] = peer.memory(tolerances[-1])
        found["fused"] = peer.fused
        found["tolerances"] = [self._at(peer, tolerance) for tolerance in tolerances]
        _refuse_wrong(found["tolerances"])
        self._peers[alternative] = peer
        return found

    def _at(self, peer: Peer, tolerance: float) -> dict[str, Any]:
        from dataclasses import asdict

        counts = asdict(peer.counts(tolerance))
        found = {name: value for name, value in counts.items() if value is not None}
        found |= peer.shares(tolerance)
        if self._given["reference"] is None:
            return found
        import numpy as np

        from reproduce.problems.exact import relative

        with np.load(self._given["reference"]) as true:
            found["error"] = relative(peer.states(tolerance), true["states"])
            found["gradient_error"] = relative(peer.gradient(tolerance), true["gradient"])
        return found

    def _time(self, alternative: str, work: str, tolerance: float, least: float) -> dict[str, Any]:
        peer = self._peers[alternative]
        if work == "field":
            return {"seconds": _repeated(peer.evaluate, FIELD_CALLS, least) / FIELD_CALLS}
        call = peer.forward if work == "forward" else peer.step
        return {"seconds": _repeated(call, tolerance, least)}


def _refuse_wrong(told: list[dict[str, Any]]) -> None:
    """Raise where errors are not numbers, or where not one digit is right at any tolerance."""
    for metric, what in (("error", "states"), ("gradient_error", "gradient")):
        errors = [t[metric] for t in told if metric in t]
        if errors and not (all(map(math.isfinite, errors)) and min(errors) < USELESS):
            shown = ", ".join(f"{error:.1e}" for error in errors)
            raise RuntimeError(f"the errors of its {what} are {shown}: there is nothing to time")


def _seconds(call: Callable[[Any], object], argument: Any, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call(argument)
    return time.perf_counter() - start


def _repeated(call: Callable[[Any], object], argument: Any, least: float) -> float:
    """Return the mean time of calls that together take at least so many seconds."""
    start, calls = time.perf_counter(), 0
    while True:
        call(argument)
        calls += 1
        passed = time.perf_counter() - start
        if passed >= least:
            return passed / calls


def _make_equal(threads: int, device: str) -> None:
    """Give every library as many threads, before it is imported: XLA has a pool of its own.

    None computes in TF32, but who says so.
    """
    os.environ |= {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    os.environ["JAX_PLATFORMS"] = device
    # JAX would take three quarters of a GPU, and several of its processes live at once.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if device == "cpu":
        # An optimizer of torch asks at every update whether there is a GPU: that loads its driver.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])
    import torch

    from reproduce.precision import allow_tf32

    torch.set_num_threads(threads)
    allow_tf32(False)


def main() -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    given = json.loads(sys.argv[1])
    _make_equal(given["threads"], given["device"])
    contender = Contender(given)
    for line in sys.stdin:
        print(json.dumps(contender.answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
