"""Planar normalizing flows: layers of one unit, inverted numerically."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.nets.flows import Flow
from lightning_modules.nets.members import generators, normal
from lightning_modules.solvers import differentiable_once

ITERATIONS = 200
NEUTRAL = math.log(math.e - 1)  # m of it is 0
MARGIN = 1e-6
LAYERS_AT_ONCE = 64  # more of them begin nearer to the identity each, so that all together do
_DIGITS = 16  # an inverse is accepted where it misses by at most this many roundings


class NotInvertible(RuntimeError):
    """A planar layer whose inverse was not found to rounding."""


class PlanarFlow(Flow):
    """K layers z + û tanh(wᵀz + b), each invertible since wᵀû ≥ -1.

    û = u + (m(wᵀu) - wᵀu) w / |w|² with m(x) = -1 + 10⁻⁶ + log(1 + eˣ); the small number, which is
    ours, keeps rounding from crossing -1. log|det| of a layer is log(1 + wᵀû (1 - tanh²)). In one
    direction the layers are applied; in the other, the root of a monotone function of one variable
    is found for each of them, in float64 and to its rounding.

    Args:
        dim: Dimension of the points.
        layers: K.
        seeds: One a member.
        generates: Whether the layers lead from base to data (trained by an energy) or from data
            to base (trained by likelihood).

    Source: Rezende and Mohamed (2015), "Variational inference with normalizing flows", Section
    4.1 and Appendix A.
    """

    def __init__(self, dim: int, layers: int, seeds: Sequence[int], *, generates: bool) -> None:
        super().__init__(dim, len(seeds))
        self.layers, self.generates = layers, generates
        draw = generators(seeds)
        self.w = normal((layers, dim), 1.0, draw)
        # Near the identity: û is u without its part along w, and that part starts at wᵀû = 0.
        w = self.w.detach()
        along = NEUTRAL * w / w.square().sum(dim=-1, keepdim=True)
        std = 0.1 / math.sqrt(max(1, layers / LAYERS_AT_ONCE))
        self.u = nn.Parameter(normal((layers, dim), std, draw).detach() + along)
        self.b = normal((layers,), 1.0, draw)

    def push(self, z: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Map base to data by that part of the layers."""
        return self._apply_layers(z, part) if self.generates else self._invert(z, part)

    def pull(self, x: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Map data to base by that part of the layers."""
        return self._invert(x, part) if self.generates else self._apply_layers(x, part)

    def constrained(self) -> tuple[Tensor, Tensor]:
        """Return û, ``(members, layers, dim)``, and wᵀû, ``(members, layers, 1)``."""
        product = (self.w * self.u).sum(dim=-1, keepdim=True)
        length = self.w.square().sum(dim=-1, keepdim=True)
        slope = F.softplus(product) - (1 - MARGIN)
        return self.u + (slope - product) * self.w / length, slope

    def _near_the_base(self, part: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return w, û, wᵀû and b of the layers that are that part of the way from the base."""
        count = max(1, round(part * self.layers))
        chosen = slice(0, count) if self.generates else slice(self.layers - count, self.layers)
        u, slope = self.constrained()
        return self.w[:, chosen], u[:, chosen], slope[:, chosen], self.b[:, chosen]

    def _apply_layers(self, points: Tensor, part: float) -> tuple[Tensor, Tensor]:
        self.check(points, part)
        with torch.autocast(points.device.type, enabled=False):
            end, volume = _Chain.apply(points, *self._near_the_base(part))
        return end, volume

    def _invert(self, points: Tensor, part: float) -> tuple[Tensor, Tensor]:
        self.check(points, part)
        with torch.autocast(points.device.type, enabled=False):
            layers = (tensor.double() for tensor in self._near_the_base(part))
            start, volume = self._invert_layers(points.double(), *layers)
        return start.to(points.dtype), volume.to(points.dtype)

    def _invert_layers(
        self, points: Tensor, w: Tensor, u: Tensor, slopes: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        volume = torch.zeros_like(points[:, 0])
        for k in range(w.shape[1] - 1, -1, -1):
            row, column, shift = w[:, k : k + 1], u[:, k, :, None], b[:, k, None, None]
            slope = slopes[:, k : k + 1]
            h = torch.tanh(_preimage(torch.bmm(row, points), slope, shift) + shift)
            points = points - column * h
            volume = volume - torch.log1p(slope * (1 - h * h)).squeeze(1)
        return points, volume


class _Chain(torch.autograd.Function):
    """All layers in one node of the graph: a few products a layer, while its points are at hand.

    What is kept of a layer are its points and its tanh, each in memory of its own: nothing of the
    size of all layers is copied together.
    """

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, w: Tensor, u: Tensor, slope: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, columns = w.unsqueeze(2).unbind(1), u.unsqueeze(3).unbind(1)
        shifts = b[:, :, None, None].unbind(1)
        states, activations = [points], []
        for row, column, shift in zip(rows, columns, shifts, strict=True):
            h = torch.baddbmm(shift, row, states[-1]).tanh_()
            states.append(torch.baddbmm(states[-1], column, h))
            activations.append(h)
        end, h = states.pop(), torch.cat(activations, dim=1)
        ctx.states, ctx.activations = states, activations
        ctx.save_for_backward(points, w, u, slope, h)
        return end, torch.log1p(slope * (1 - h * h)).sum(dim=1)

    @staticmethod
    @differentiable_once("layers that are applied are one operation. Invert them instead.")
    def backward(ctx: Any, of_end: Tensor, of_volume: Tensor) -> tuple[Tensor, ...]:
        _, w, u, slope, h = ctx.saved_tensors
        flat = 1 - h * h
        of_det = of_volume.unsqueeze(1) / (1 + slope * flat)
        of_slope = (of_det * flat).sum(dim=-1, keepdim=True)
        of_h, flats = (-2 * of_det * slope * h).split(1, dim=1), flat.split(1, dim=1)
        rows, columns = u.unsqueeze(2).unbind(1), w.unsqueeze(3).unbind(1)
        of_w, of_u, of_b = [], [], []
        for k in range(len(rows) - 1, -1, -1):
            of_a = torch.baddbmm(of_h[k], rows[k], of_end).mul_(flats[k])
            of_w.append(torch.bmm(ctx.states[k], of_a.transpose(1, 2)))
            of_u.append(torch.bmm(of_end, ctx.activations[k].transpose(1, 2)))
            of_b.append(of_a)
            of_end = torch.baddbmm(of_end, columns[k], of_a)
        return (
            of_end,
            torch.cat(of_w[::-1], dim=2).transpose(1, 2),
            torch.cat(of_u[::-1], dim=2).transpose(1, 2),
            of_slope,
            torch.cat(of_b[::-1], dim=1).sum(dim=-1),
        )


def _preimage(s: Tensor, slope: Tensor, b: Tensor) -> Tensor:
    """Return α with α + slope · tanh(α + b) = s, differentiable repeatedly."""
    root: Tensor = _Preimage.apply(s, slope, b)
    return root


class _Preimage(torch.autograd.Function):
    """The root of a function that grows, with the derivatives of the implicit function.

    Newton's method inside a bracket, which is halved instead wherever Newton would leave it or has
    not halved what is missed: from both sides of a steep tanh, it would jump to and fro. The left
    side does not fall anywhere, since slope ≥ -1.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, slope: Tensor, b: Tensor) -> Tensor:
        reach = slope.abs()
        low, high, root = s - reach, s + reach, s.clone()
        missed_before = torch.full_like(s, math.inf)
        digits = _DIGITS * torch.finfo(s.dtype).eps
        for _ in range(ITERATIONS):
            value, steepness = _with_slope(root, s, slope, b)
            # The sum is rounded, and within the tanh its argument is.
            close = digits * (1 + s.abs() + reach * (1 + root.abs() + b.abs()))
            if bool((value.abs() <= close).all()):
                break
            low, high = torch.where(value < 0, root, low), torch.where(value > 0, root, high)
            newton = root - value / steepness
            good = (newton > low) & (newton < high) & (value.abs() < missed_before / 2)
            root, missed_before = torch.where(good, newton, (low + high) / 2), value.abs()
        else:
            missed = float((value.abs() - close).max())
            raise NotInvertible(
                f"A planar layer could not be inverted: after {ITERATIONS} iterations a point is "
                f"still missed by {missed:.1e}. Its wᵀû is {float(slope.min()):.6f}, where -1 is "
                "the end of what is invertible; train with a lower rate."
            )
        root = root - value / steepness  # one more step is cheap
        ctx.save_for_backward(root, slope, b)
        return root

    @staticmethod
    def backward(ctx: Any, of_root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        root, slope, b = ctx.saved_tensors
        h = torch.tanh(root + b)
        of_s = of_root / (1 + slope * (1 - h * h))
        of_slope, of_b = -of_s * h, -of_s * slope * (1 - h * h)
        return of_s, of_slope.sum_to_size(slope.shape), of_b.sum_to_size(b.shape)


def _with_slope(a: Tensor, s: Tensor, slope: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return α + slope · tanh(α + b) - s and its derivative by α."""
    h = torch.tanh(a + b)
    return a + slope * h - s, 1 + slope * (1 - h * h)
