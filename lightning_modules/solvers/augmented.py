"""The field of the continuous adjoint's backward solve."""

import math
from collections.abc import Hashable, Sequence
from typing import cast

import torch
from torch import Tensor

from lightning_modules.solvers.base import AdjointNorm, Field
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.identity import norm_key, weakly
from lightning_modules.solvers.registry import Norm, TensorField
from lightning_modules.solvers.replay import refuse_strangers, vjp
from lightning_modules.solvers.state import Layout, rms


class Augmented(Recordable):
    """The field of the backward solve over the vector [z, a, g], and the norm of its error.

    Args:
        field: The field f over one tensor.
        measure: Norm of an error of the state.
        kind: Which norm of the whole, ``adjoint_norm``.
        shape: Shape of the state.
        parameters: Those of the field that want a gradient.
    """

    def __init__(
        self,
        field: TensorField,
        measure: Norm,
        kind: AdjointNorm,
        shape: torch.Size,
        parameters: Sequence[Tensor],
    ) -> None:
        self.layout = Layout((shape, shape, *(p.shape for p in parameters)))
        self._field, self._measure, self._kind = field, measure, kind
        self.source = cast(Recordable, field).source
        self._shape, self._parameters = shape, parameters
        self._known = set(map(id, parameters))
        self._sizes = [math.sqrt(max(p.numel(), 1)) for p in parameters]

    def key(self) -> Hashable:
        """Return what beside the source it depends on; parameters are the source's own."""
        inner = cast(Recordable, self._field).key()
        return "augmented", inner, self._kind, norm_key(self._measure), self.layout

    def on(self, field: Field, parameters: Sequence[Tensor] | None = None) -> "Augmented":
        """Return the same over another reference to the user's field."""
        inner = cast(Recordable, self._field).on(field)
        own = self._parameters if parameters is None else parameters
        measure = weakly(self._measure, None, None)
        return Augmented(inner, measure, self._kind, self._shape, own)

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Return [f, -aᵀ ∂f/∂z, -aᵀ ∂f/∂θ] as a new vector."""
        out = torch.empty_like(state)
        self.write(t, state, out)
        return out

    def write(self, t: Tensor, state: Tensor, out: Tensor) -> None:
        """Write the same into ``out``, so that a solver's buffer is filled without a copy."""
        z, a, *_ = self.layout.unpack(state)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            dz = self._field(t.detach(), z)
        refuse_strangers(dz, z, self._known)
        out_z, *rest = self.layout.unpack(out)
        out_z.copy_(dz.detach())
        for part, pulled in zip(rest, vjp(dz, (z, *self._parameters), a), strict=True):
            if pulled is None:
                part.zero_()
            else:  # that of an embedding may be sparse
                dense = pulled if pulled.layout == torch.strided else pulled.to_dense()
                part.copy_(dense).neg_()

    def norm(self, error: Tensor) -> Tensor:
        """Return the norm that ``adjoint_norm`` names."""
        if self._kind == "rms":
            return rms(error)
        z, a, *blocks = self.layout.unpack(error)
        norms = [self._measure(z), self._measure(a)]
        if self._kind == "per_tensor" and blocks:
            found = torch._foreach_norm(blocks)  # one call for what would be four for each block
            norms += torch._foreach_div(found, self._sizes)
        return torch.stack(norms).max()
