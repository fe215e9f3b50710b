"""The paper's continuous planar flow: a field with a hypernetwork and its trace in closed form."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.nets.members import MemberLinear, generators
from lightning_modules.solvers import Coefficients


class Weights(NamedTuple):
    """What the hypernetwork returns, for times in front or for one time.

    Args:
        w: Weights into the hidden units, ``(…, members, width, dim)``.
        b: Their biases, ``(…, members, width, 1)``.
        u: Weights out of them, gate and mean included, ``(…, members, dim, width)``.
        c: Sum over dimensions of w u, ``(…, members, 1, width)``: what the trace needs.
    """

    w: Tensor
    b: Tensor
    u: Tensor
    c: Tensor


class HyperNetwork(nn.Module):
    """The parameters of a planar field as functions of time (Section 4.1).

    t goes through two hidden layers of tanh units; the gate of every unit and coordinate is a
    sigmoid. As in the first author's code, the units are averaged where the paper prints a sum.

    Args:
        dim: Dimension of the points.
        width: Hidden units M of the field.
        hidden: Units of both hidden layers.
        seeds: One a member.
    """

    def __init__(self, dim: int, width: int, hidden: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        draw = generators(seeds)
        self.first = MemberLinear(1, hidden, draw)
        self.second = MemberLinear(hidden, hidden, draw)
        self.last = MemberLinear(hidden, 3 * width * dim + width, draw)

    def forward(self, times: Tensor) -> Weights:
        """Return the weights at times ``(time,)``."""
        members, width, dim = len(self.first.weight), self.width, self.dim
        x = times.view(1, -1, 1).expand(members, -1, 1)
        x = self.last(self.second(self.first(x).tanh()).tanh())
        lead, block = (len(times), members), width * dim
        w, u, gate, b = x.transpose(0, 1).split_with_sizes([block, block, block, width], -1)
        w = w.view(*lead, width, dim)
        u = (u * gate.sigmoid() / width).view(*lead, dim, width)
        c = (w.mT * u).sum(dim=-2, keepdim=True)
        return Weights(w, b.unsqueeze(-1), u, c)


class PlanarField(nn.Module):
    """dz/dt = U(t) tanh(W(t) z + b(t)) and d log|det|/dt = tr ∂f/∂z, for members side by side.

    The state is ``(members, dim + 1, points)``: coordinates, then the logarithm of the Jacobian
    determinant of the flow map since the start. Nothing is differentiated for the trace, which is
    Σ_m c_m (1 - tanh²); time and parameters enter through the weights alone, so that the native
    backend solves it without a graph.

    Args:
        dim: Dimension of the points.
        width: Hidden units M.
        hidden: Units of the hypernetwork's hidden layers.
        seeds: One a member.

    Source: Chen et al. (2018), Section 4.1 and Appendix A; the hypernetwork is the public code's.
    """

    one: Tensor

    def __init__(self, dim: int, width: int, hidden: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.dim, self._rows = dim, [dim, 1]
        self.hyper = HyperNetwork(dim, width, hidden, seeds)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(members, dim + 1, points)``."""
        w, b, u, c = (part[0] for part in self.hyper(t.view(1)))
        h = _tanh_of_half(torch.baddbmm(b, w, y[:, : self.dim], beta=2, alpha=2))
        return torch.cat([u @ h, c @ (1 - h * h)], dim=1)

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return the weights at times ``(time,)``."""
        return self.hyper(times)

    def slope(self, c: Coefficients, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Write dy/dt to ``out``; return tanh and its derivative."""
        w, b, u, trace = c
        z, (of_z, of_trace) = y[:, : self.dim], out.split_with_sizes(self._rows, 1)
        h = _tanh_of_half(torch.baddbmm(b, w, z, beta=2, alpha=2))
        flat = torch.addcmul(self.one, h, h, value=-1)
        torch.bmm(u, h, out=of_z)
        torch.bmm(trace, flat, out=of_trace)
        return h, flat

    def pull(
        self, c: Coefficients, y: Tensor, note: tuple[Tensor, Tensor], kappa: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products with respect to state and weights."""
        (w, _, u, trace), (h, flat) = c, note
        of_z, of_trace = kappa.split_with_sizes(self._rows, 1)
        g = torch.bmm(u.transpose(1, 2), of_z)
        g.addcmul_(torch.bmm(trace.transpose(1, 2), of_trace), h, value=-2)
        g.mul_(flat)  # now the cotangent of W z + b
        pulled = torch.empty_like(y)
        to_z, to_volume = pulled.split_with_sizes(self._rows, 1)
        torch.bmm(w.transpose(1, 2), g, out=to_z)
        to_volume.zero_()  # nothing depends on the volume so far
        return (
            pulled,
            # This way round, the product has long rows on the side that is read fastest.
            torch.bmm(y[:, : self.dim], g.transpose(1, 2)).transpose(1, 2),
            g.sum(-1, keepdim=True),
            torch.bmm(of_z, h.transpose(1, 2)),
            torch.bmm(of_trace, flat.transpose(1, 2)),
        )


def _tanh_of_half(x: Tensor) -> Tensor:
    """Return tanh(x / 2), and overwrite ``x`` where nothing follows it.

    It is 2 σ(x) - 1: on a CPU, in float32, σ costs a ninth of tanh. The price is absolute
    rounding, that of 1. What is traced is compiled as a rule, where tanh costs less.
    """
    if x.dtype is not torch.float32 or x.device.type != "cpu" or type(x) is not Tensor:
        return torch.tanh(x / 2)
    if x.requires_grad:
        return 2 * torch.sigmoid(x) - 1
    return x.sigmoid_().mul_(2.0).sub_(1.0)
