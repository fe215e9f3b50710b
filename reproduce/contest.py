"""Libraries side by side: a process for each, timed in turn, so that all are disturbed alike.

In one process the libraries would share what they must not: torch's threads go on spinning after
an operator while XLA's begin, and what one allocates the other finds in pieces. In processes that
run one after another from start to end, a machine that slows down would make one of them lose. So
every alternative has a process of its own that lives as long as its problem, and the rounds go
through all of them: exactly one works at any time, the others wait for their turn.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reproduce.failures import ended

FEWEST = 6  # rounds of which an interval can be told
PATIENCE = 180.0  # seconds for imports, compilation and all first calls of an alternative


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        problem: Name of the problem.
        sizes: What its builder takes.
        alternatives: Library and gradient of each.
        tolerances: Tolerances, from loose to tight.
        rounds: Most timed rounds, after one that is not timed.
        seconds: No round begins later than this, but `FEWEST` are gone in any case.
        least: Least seconds of one measurement, which repeats calls until then.
        threads: Threads of every library.
        errors: Whether errors are measured against a reference.
        device: Where everything is, ``cpu`` or ``cuda``.
        patience: Most seconds in which an alternative must be ready.
        cache: Folder in which TorchInductor keeps what it compiles, of each alternative apart;
            None is an empty one for each process.
    """

    problem: str
    sizes: Mapping[str, Any]
    alternatives: Sequence[str]
    tolerances: Sequence[float]
    rounds: int
    seconds: float
    least: float
    threads: int
    errors: bool = True
    device: str = "cpu"
    patience: float = PATIENCE
    cache: str | None = None


@dataclass
class Outcome:
    """What came of it.

    Args:
        told: What each alternative said when it was ready.
        seconds: Seconds of every round by alternative, work (``forward``, ``step`` or ``field``)
            and tolerance.
        skipped: Alternatives that cannot be measured here, and why.
        failed: Alternatives that failed, and how.
    """

    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[tuple[str, str, float], list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Lost(RuntimeError):
    """A process that ended or did not answer in time."""


class Process:
    """A contender that runs.

    Args:
        plan: What it is given.
        reference: File of the reference; None if there is none.
        alternative: What it will be asked for.
    """

    def __init__(self, plan: Plan, reference: str | None, alternative: str = "") -> None:
        given = {
            "problem": plan.problem,
            "sizes": dict(plan.sizes),
            "threads": plan.threads,
            "device": plan.device,
            "reference": reference,
        }
        self._stderr = tempfile.TemporaryFile("w+")
        # Empty at first, so that compilation takes what it takes the first time.
        self._compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        cache = Path(plan.cache or self._compiled.name, alternative)
        self._running = subprocess.Popen(
            [sys.executable, "-m", "reproduce.contender", json.dumps(given)],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.kill()
        self._running.wait()
        self._stderr.close()
        self._compiled.cleanup()

    def ask(self, patience: float, **order: Any) -> dict[str, Any]:
        """Give an order and return the answer.

        Raises:
            Lost: If there is none in that many seconds, or ever.
        """
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(json.dumps(order) + "\n")
            self._running.stdin.flush()
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise Lost(f"not ready after {patience:g} s") from None
        except BrokenPipeError:
            line = None
        if line is None:
            code = self._running.wait()
            self._stderr.seek(0)
            said = self._stderr.read().strip().splitlines()
            raise Lost(f"its process ended: {said[-1]}" if said else f"its process {ended(code)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _listen(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self._lines.put(line)
        self._lines.put(None)


def hold(plan: Plan) -> Outcome:
    """Measure a problem in all alternatives; without a reference all of them fail."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        reference = str(Path(folder) / "reference.npz") if plan.errors else None
        if reference is not None:
            with Process(plan, reference) as process:
                why = _asked(process, 4 * plan.patience, do="reference").get("failed")
            if why is not None:
                outcome.failed = dict.fromkeys(plan.alternatives, f"no reference: {why}")
                return outcome
        ready = {}
        for alternative in plan.alternatives:
            process = stack.enter_context(Process(plan, reference, alternative))
            tolerances = list(plan.tolerances)
            told = _asked(
                process,
                plan.patience,
                do="prepare",
                alternative=alternative,
                tolerances=tolerances,
            )
            for key, kept in (("skipped", outcome.skipped), ("failed", outcome.failed)):
                if key in told:
                    kept[alternative] = told[key]
            if told.keys() & {"skipped", "failed"}:
                process.__exit__(None, None, None)
                continue
            outcome.told[alternative] = told
            ready[alternative] = process
        _race(outcome, plan, ready)
    return outcome


def _asked(process: Process, patience: float, **order: Any) -> dict[str, Any]:
    """Return the answer to an order, also that there will be none."""
    try:
        return process.ask(patience, **order)
    except Lost as error:
        return {"failed": str(error)}


def _race(outcome: Outcome, plan: Plan, ready: dict[str, Process]) -> None:
    """Go through all alternatives round by round, each time from another one on."""
    begun = time.monotonic()
    for number in range(-1, plan.rounds):
        if number >= FEWEST and time.monotonic() - begun > plan.seconds:
            break
        for work, tolerance in _works(plan.tolerances):
            names = list(ready)
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                order = {"alternative": name, "work": work, "tolerance": tolerance}
                told = _asked(ready[name], plan.patience, do="time", least=plan.least, **order)
                if "failed" in told:
                    outcome.failed[name] = told["failed"]
                    ready.pop(name).__exit__(None, None, None)
                    outcome.told.pop(name)
                elif number >= 0:
                    key = (name, work, tolerance)
                    outcome.seconds.setdefault(key, []).append(told["seconds"])


def _works(tolerances: Sequence[float]) -> Iterator[tuple[str, float]]:
    for tolerance in tolerances:
        yield "forward", tolerance
        yield "step", tolerance
    yield "field", tolerances[0]
