"""The field as a backend gets it: over one tensor, its evaluations counted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import Field, SolveStats
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.state import Layout, times_written


class Recordable(ABC):
    """A field over one tensor of which is known what it is made of.

    Two of them with the same ``source`` and ``key`` compute the same function, so that what was
    recorded of one can be replayed for the other.
    """

    source: Field  # the user's

    @abstractmethod
    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate it."""

    @abstractmethod
    def key(self) -> Hashable:
        """Return what beside the source it depends on."""

    @abstractmethod
    def on(self, field: Field, parameters: Sequence[Tensor] | None = None) -> TensorField:
        """Return the same over another reference to the user's field.

        Args:
            field: The reference.
            parameters: What it is differentiated by, if not by the parameters as they are.
        """


@dataclass(frozen=True)
class OnTensors(Recordable):
    """A user's field over one tensor; tuple states become one vector and back.

    Args:
        source: The user's field.
        layout: How the parts of a tuple state lie in the vector; None for one tensor.
    """

    source: Field
    layout: Layout | None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt in the dtype of ``y``; autocast may have computed it in less."""
        clock, before = times_written(t), times_written(y)
        try:
            dy = self.source(t, y) if self.layout is None else self._on_tuple(self.layout, t, y)
        except RuntimeError as error:
            _note_other_numbers(error, self.source, y)
            raise
        except TypeError as error:
            error.add_note("A field is called as field(t, y) and returns dy/dt, shaped like y.")
            raise
        if clock != times_written(t):
            raise _in_place("time", "t.clone(), or write t = 2 * t instead of t *= 2")
        if before != times_written(y):
            raise _in_place("state", "what makes a new tensor: inplace=False, or y.clone()")
        _check_derivative(dy, y.shape)
        return dy.to(y.dtype)

    def _on_tuple(self, layout: Layout, t: Tensor, y: Tensor) -> Tensor:
        dys = self.source(t, layout.unpack(y))
        if not isinstance(dys, tuple | list) or len(dys) != len(layout.shapes):
            several = isinstance(dys, tuple | list)
            given = f"{len(dys)} of them" if several else f"a {type(dys).__name__}"
            raise ValueError(
                f"The field must return a tuple of {len(layout.shapes)} tensors, like y0, and "
                f"returned {given}."
            )
        for dy, shape in zip(dys, layout.shapes, strict=True):
            _check_derivative(dy, shape)
        return layout.pack(dys).to(y.dtype)

    def key(self) -> Hashable:
        """Return what beside the source it depends on."""
        return "field", self.layout

    def on(self, field: Field, parameters: Sequence[Tensor] | None = None) -> "OnTensors":
        """Return the same over another reference to the user's field."""
        return OnTensors(field, self.layout)


class Counted:
    """A field whose evaluations are counted; it writes in place where the field does.

    Args:
        field: What is evaluated.
        stats: Counted up here.
        name: Which of the counts.
    """

    def __init__(self, field: TensorField, stats: SolveStats, name: str = "nfe_forward") -> None:
        self.field = field
        self._stats, self._name = stats, name
        self._write = getattr(field, "write", None)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt."""
        self.count(1)
        return self.field(t, y)

    def count(self, evaluations: int) -> None:
        """Count evaluations that were made elsewhere."""
        counted = getattr(self._stats, self._name) + evaluations
        setattr(self._stats, self._name, counted)

    @property
    def write(self) -> Callable[[Tensor, Tensor, Tensor], None]:
        """The evaluation in place, counted; not there where the field has none."""
        if self._write is None:
            raise AttributeError(f"{type(self.field).__name__} writes nothing in place")
        return self._written

    def _written(self, t: Tensor, y: Tensor, out: Tensor) -> None:
        self.count(1)
        assert self._write is not None
        self._write(t, y, out)


def _note_other_numbers(error: RuntimeError, field: Field, y: Tensor) -> None:
    """Add to an error in a field that its weights and its state are of two kinds, if they are."""
    weights = field.parameters() if isinstance(field, nn.Module) else ()
    theirs = {f"{w.dtype} on {w.device}" for w in weights if w.is_floating_point()}
    ours = f"{y.dtype} on {y.device}"
    if theirs - {ours}:
        error.add_note(
            f"y0 is {ours}, parameters of the field are {', '.join(sorted(theirs))}. Convert the "
            "state or the field with .to()."
        )


def _in_place(what: str, remedy: str) -> RuntimeError:
    """Return the error of a field that writes to what it is called with."""
    return RuntimeError(
        f"The field changes its {what} in place, which the solver still needs. Begin it with "
        f"{remedy}."
    )


def _check_derivative(dy: Any, shape: torch.Size) -> None:
    if isinstance(dy, Tensor) and dy.is_complex():
        raise ValueError("The field returned complex numbers. Solve for their real and imaginary "
                         "parts, as a tuple of two tensors.")  # fmt: skip
    if not isinstance(dy, Tensor) or dy.shape != shape:
        given = f"shape {tuple(dy.shape)}" if isinstance(dy, Tensor) else f"a {type(dy).__name__}"
        raise ValueError(
            f"The field returned {given} for a state of shape {tuple(shape)}; "
            "dy/dt must have the shape of y."
        )
