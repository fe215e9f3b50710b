"""Which solves have a plan, and where the plans are kept."""

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Hashable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.fields import Counted, Recordable
from lightning_modules.solvers.identity import Unrecordable, fingerprint, norm_key
from lightning_modules.solvers.recorded.engine import Engine, Plan, Task
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.replay import autocast_now
from lightning_modules.solvers.surroundings import Solved, changed
from lightning_modules.solvers.watching import watchers

MOST_PLANS = 16
"""Plans kept for one field, each with memory of its own; the one used last stays longest.

Whoever goes round more kinds of solves than are kept makes a plan for every solve. The benchmark
goes round five tolerances, with and without a gradient, each of which is a recording.
"""
MOST_MADE = 32
"""Plans made for one field; who would need more makes plans instead of solving."""
MOST_SEEN = 64
"""Kinds of solves remembered that were met once, or that can have no plan."""
MOST_CHANCES = 4
"""Times that new tensors may lie where others lay before it is said that they are replaced."""
MOST_OUTPUT_BYTES = 2**28
"""States at output times; a solve with more of them has no plan."""


@dataclass
class _OfField:
    """What is known of one field.

    Args:
        plans: By what a plan depends on.
        seen: Kinds of solves that were met, with the tensors that the field had.
        refused: Those that have no plan.
        warned: Engines that have said so.
        made: How many plans were made.
        chances: How often other tensors lay where those of a kind that was seen had lain.
    """

    plans: OrderedDict[Hashable, Plan] = field(default_factory=OrderedDict)
    seen: OrderedDict[Hashable, list[weakref.ref[Tensor]]] = field(default_factory=OrderedDict)
    refused: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)
    warned: set[str] = field(default_factory=set)
    made: int = 0
    chances: int = 0

    def met(self, key: Hashable, tensors: list[Tensor]) -> bool:
        """Note a kind of solve; return whether it was met before, with these very tensors.

        Memory that a tensor has left is often that of the next, which will leave it as well.
        """
        before = self.seen.get(key)
        _remember(self.seen, key, list(map(weakref.ref, tensors)))
        if before is None:
            return False
        same = all(then() is now for then, now in zip(before, tensors, strict=True))
        self.chances += not same
        return same

    def refuse(
        self, engine: Engine, module: nn.Module, key: Hashable, reason: Unrecordable
    ) -> None:
        """Solve such as this one step by step from now on, and say so once for each engine.

        Without a key nothing is refused, and the field is looked at again each time.
        """
        if key is not None:
            self.plans.pop(key, None)
            _remember(self.refused, key, None)
        if engine.name not in self.warned:
            self.warned.add(engine.name)
            warnings.warn(
                f"{type(module).__name__} is solved step by step, not by what was {engine.name} "
                f"once: {str(reason).rstrip('.')}. "
                "backend='native' is the same without this warning.",
                stacklevel=2,
            )


_RESTLESS = (
    f"{MOST_MADE} plans were made for it already, since its weights are replaced and not changed "
    "in place, or the shapes of its states vary; change weights in place, and pad batches"
)

_REPLACED = (
    "a tensor of it was another one again and again; write into the same one, x.copy_(new), or "
    "make it part of the state"
)

_FIELDS: MutableMapping[nn.Module, _OfField] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Found:
    """A plan, and what to tell if it does not hold after all.

    Args:
        engine: Has drawn it up.
        plan: The plan.
        module: The field.
        marks: Its fingerprint.
        key: What the plan is kept by.
        tensors: Its tensors, without averages that are only written.
    """

    engine: Engine
    plan: Plan
    module: nn.Module
    marks: Hashable
    key: Hashable
    tensors: list[Tensor]

    def refuse(self, reason: Unrecordable) -> None:
        """Solve such as this one step by step from now on."""
        _FIELDS[self.module].refuse(self.engine, self.module, self.key, reason)

    def as_it_was(self) -> Solved:
        """Return the field, which must be as it was found, its values aside.

        Raises:
            RuntimeError: If it is another one by now.
        """
        with suppress(Unrecordable):
            if fingerprint(self.module) == self.marks:
                return Solved.untouched(self.module)
        raise changed("The field was changed")


def find(
    engine: Engine,
    counted: object,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    keep: bool,
) -> Found | None:
    """Return the plan of a solve, None where it is to be made step by step.

    A solve of its kind, field, shape and settings, is made step by step the first time and
    by a plan the second: a last, smaller batch or a field that lives for one solve costs nothing.

    Args:
        engine: Draws up the plan.
        counted: The field as a backend gets it.
        y0: Initial state.
        times: Output times.
        settings: Method and tolerances.
        norm: Error norm.
        keep: Whether a backward pass will follow.
    """
    if not isinstance(counted, Counted) or not isinstance(counted.field, Recordable):
        return None
    on_tensors, module = counted.field, counted.field.source
    if not isinstance(module, nn.Module) or isinstance(module, weakref.ProxyTypes):
        return None  # nothing can be kept for a proxy
    if not _may_replay(engine, y0, settings):
        return None
    known = _FIELDS.get(module) or _FIELDS.setdefault(module, _OfField())
    outputs = _room(len(times) - 1)
    if outputs * y0.numel() * y0.element_size() > MOST_OUTPUT_BYTES:
        return None
    try:
        tensors: list[Tensor] = []
        marks = fingerprint(module, tensors)
        function = (on_tensors.key(), norm_key(norm), marks)
    except (Unrecordable, RecursionError) as reason:
        known.refuse(engine, module, None, Unrecordable(str(reason)))
        return None
    key = (engine.name, *function, *_kind(y0, settings), engine.kind(y0, settings, outputs, keep))
    plan = known.plans.get(key)
    if plan is None:
        if key in known.refused:
            return None
        if not known.met(key, tensors):
            if known.chances >= MOST_CHANCES:
                known.refuse(engine, module, None, Unrecordable(_REPLACED))
            return None
        if known.made == MOST_MADE:
            known.refuse(engine, module, key, Unrecordable(_RESTLESS))
            return None
        known.made += 1
        task = Task(y0, times.double().tolist(), settings, SolveStats(), counted, times)
        try:
            plan = known.plans[key] = engine.plan(on_tensors, norm, task, outputs, keep)
        except Unrecordable as reason:
            known.refuse(engine, module, key, reason)
            return None
        _trim(known.plans, MOST_PLANS)
    known.plans.move_to_end(key)
    return Found(engine, plan, module, marks, key, tensors)


def _may_replay(engine: Engine, y0: Tensor, settings: SolverSettings) -> bool:
    """Return whether nobody looks on whom a replay would not reach."""
    if not engine.takes(y0.device) or type(y0) not in (Tensor, nn.Parameter):
        return False
    watched = watchers() or _len_torch_dispatch_stack() or _has_any_global_hook()
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    # As activation checkpointing sets: the graphs of a plan must not be packed and made again.
    packed = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    traced = torch.compiler.is_compiling() or (
        y0.is_cuda and torch.cuda.is_current_stream_capturing()
    )
    return not (settings.sync_norm or watched or transformed or packed or traced)


def _kind(y0: Tensor, settings: SolverSettings) -> tuple[Hashable, ...]:
    """Return what a plan of a solve depends on beside the field and what its engine says."""
    autocast: dict[str, Any] = autocast_now(y0.device.type)
    return (
        settings.method,
        y0.shape,
        y0.dtype,
        y0.device,
        autocast["enabled"] and autocast["dtype"],
        torch.get_default_dtype(),
        torch.get_num_threads(),
        *_roundings(),
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


def _roundings() -> tuple[str, ...]:
    """Return to what products may round float32; the older getters raise once a newer was set."""
    kinds = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"))
    return tuple(torch._C._get_fp32_precision_getter(*kind) for kind in kinds)


def _room(outputs: int) -> int:
    """Return a power of two, so that a few times more or less are the same kind of solve."""
    return 1 << (outputs - 1).bit_length()


def _remember(kinds: OrderedDict[Hashable, Any], key: Hashable, what: Any) -> None:
    kinds[key] = what
    kinds.move_to_end(key)
    _trim(kinds, MOST_SEEN)


def _trim(kept: OrderedDict[Hashable, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
