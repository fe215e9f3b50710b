"""Any field as a continuous flow: its trace by automatic differentiation or by an estimate."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Trace = Literal["exact", "rademacher", "gaussian"]


class TracedField(nn.Module):
    """A field f(t, z) with the trace of its Jacobian, as a `ContinuousFlow` takes it.

    ``exact`` takes as many vector-Jacobian products as there are dimensions. The other two are
    Hutchinson's estimate εᵀ (∂f/∂z) ε with one ε a point, which is drawn when a solve begins and
    fixed within it (FFJORD): without bias, at the price of one product. They train; in evaluation
    the trace is exact, so that a density is a function of the point. ``source`` draws the normal
    numbers that ε is made of, ``(points, dim)``; None is torch's own generator.

    Args:
        net: Called as ``net(t, z)`` with ``z`` of shape ``(points, dim)``; every point's value
            depends on that point alone.
        trace: How the trace is found; Hutchinson's noise by its distribution.

    Source: Grathwohl et al. (2019), "FFJORD", arXiv 1810.01367, Section 3.
    """

    noise: Tensor
    source: Callable[[int, int], Tensor] | None = None

    def __init__(self, net: nn.Module, trace: Trace = "exact") -> None:
        super().__init__()
        if trace not in get_args(Trace):
            raise ValueError(
                f"Unknown trace {trace!r}. Choose one of {', '.join(get_args(Trace))}."
            )
        self.net, self.trace = net, trace
        self.register_buffer("noise", torch.empty(0), persistent=False)

    def begin(self, y: Tensor) -> None:
        """Draw the noise of a solve that begins at ``y``, ``(1, dim + 1, points)``."""
        if not self._estimates():
            return
        like = y[0, :-1].T.detach()
        with torch.inference_mode(False):
            noise = torch.randn_like(like) if self.source is None else self.source(*like.shape)
            noise = noise.to(like)
            self.noise = noise.sign() if self.trace == "rademacher" else noise

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the derivatives of ``y``, ``(1, dim + 1, points)``."""
        graph = torch.is_grad_enabled()
        # A Trainer evaluates in inference mode, where nothing can be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            z = y[0, :-1].T
            if not (graph and z.requires_grad):
                z, t = z.detach().clone().requires_grad_(), t.clone()
            dz = self.net(t, z)
            divergence = self._divergence(dz, z, graph)
            rows = torch.cat([dz.T, divergence.unsqueeze(0)]).unsqueeze(0)
        return rows if graph else rows.detach()

    def _estimates(self) -> bool:
        return self.training and self.trace != "exact"

    def _divergence(self, dz: Tensor, z: Tensor, graph: bool) -> Tensor:
        if self._estimates():
            (product,) = torch.autograd.grad(
                dz, z, self.noise, create_graph=graph, retain_graph=True
            )
            return (product * self.noise).sum(dim=1)
        total = torch.zeros_like(z[:, 0])
        for i in range(z.shape[1]):
            if dz.requires_grad:
                (row,) = torch.autograd.grad(
                    dz[:, i].sum(), z, create_graph=graph, retain_graph=True
                )
                total = total + row[:, i]
        return total


class TimeMLP(nn.Module):
    """A field of FFJORD's kind: a perceptron that is given t beside the point in every layer.

    Args:
        dim: Dimension of the points.
        hidden: Units of each hidden layer.
        layers: Hidden layers.
    """

    def __init__(self, dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        pairs = pairwise([dim, *[hidden] * layers, dim])
        self.layers = nn.ModuleList(nn.Linear(a + 1, b) for a, b in pairs)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return dz/dt, shaped like ``z``: ``(points, dim)``."""
        *hidden, last = self.layers
        for layer in hidden:
            z = torch.tanh(layer(_with_time(t, z)))
        out: Tensor = last(_with_time(t, z))
        return out


def _with_time(t: Tensor, z: Tensor) -> Tensor:
    return torch.cat([t.expand(len(z), 1), z], dim=1)
