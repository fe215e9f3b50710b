"""Algorithm 1 of the paper in a hundred lines: the reverse-mode derivative of an ODE's solution.

dz/dt = f(t, z, θ) is solved from z(t₀) to z(t₁), …, z(t_N), and a loss L depends on all of them.
The derivatives of L by z(t₀), θ and every time follow from one more solve, backwards in time, of
the state z together with the adjoint a(t) = dL/dz(t) and two integrals. No step is stored.

Written to be read: fixed steps, torch and nothing else. `lightning_modules.solvers` has the
adjoint to compute with.

Source: Chen et al. (2018), "Neural Ordinary Differential Equations", arXiv 1806.07366, whose
equation numbers stand beside the lines. Algorithm 1 itself begins with [z(t₁), dL/dz(t₁), 0];
the fourth part, for the times, is that of the complete algorithm in its Appendix C.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

Field = Callable[..., Tensor]  # f(t, z) or f(t, z, *θ): dz/dt, shaped like z
Step = Callable[[Field, Tensor, Tensor, Tensor], Tensor]


def euler(f: Field, t: Tensor, z: Tensor, dt: Tensor) -> Tensor:
    """Return z(t + dt), with an error of order dt² in each step."""
    return z + dt * f(t, z)


def midpoint(f: Field, t: Tensor, z: Tensor, dt: Tensor) -> Tensor:
    """Return z(t + dt), with an error of order dt³ in each step."""
    return z + dt * f(t + dt / 2, z + dt / 2 * f(t, z))


def rk4(f: Field, t: Tensor, z: Tensor, dt: Tensor) -> Tensor:
    """Return z(t + dt), with an error of order dt⁵ in each step."""
    k1 = f(t, z)
    k2 = f(t + dt / 2, z + dt / 2 * k1)
    k3 = f(t + dt / 2, z + dt / 2 * k2)
    k4 = f(t + dt, z + dt * k3)
    return z + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def ode_solve(f: Field, z: Tensor, t0: Tensor, t1: Tensor, steps: int, step: Step) -> Tensor:
    """Return z(t₁) of dz/dt = f(t, z) from z(t₀), forwards or backwards in time (Eq. 2 and 3)."""
    dt = (t1 - t0) / steps
    for k in range(steps):
        z = step(f, t0 + k * dt, z, dt)
    return z


def reverse(
    f: Field,
    theta: Sequence[Tensor],
    times: Tensor,
    zs: Tensor,
    grad_zs: Tensor,
    steps: int,
    step: Step,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Go back from the last time to the first.

    Args:
        f: The dynamics, called as ``f(t, z, *theta)``.
        theta: The parameters θ.
        times: The times t₀, …, t_N, ``(time,)``.
        zs: The states there, ``(time, *state)``.
        grad_zs: ∂L/∂z(t_i), each with the other states held fixed, ``(time, *state)``.
        steps: Steps from one time to the next.
        step: The method.

    Returns:
        dL/dz(t₀), dL/dt_i for every time and dL/dθ.
    """
    like = (zs[0], zs[0], *theta, times[0])

    def aug_dynamics(t: Tensor, s: Tensor) -> Tensor:
        z, a, *_ = unpack(s, like)
        # `pull` takes vᵀ to vᵀ ∂f/∂(t, z, θ): a vector-Jacobian product (VJP), at the price of a
        # few evaluations of f, while the Jacobian itself has as many rows as there are states.
        dz, pull = vjp(f, t, z, *theta)  # type: ignore[misc, unused-ignore]
        by_t, by_z, *by_theta = pull(-a)
        return pack(
            dz,  # Eq. 2
            by_z,  # Eq. 4
            *by_theta,  # Eq. 5
            by_t,  # Appendix B.2
        )

    a, grad_t0 = torch.zeros_like(zs[0]), torch.zeros_like(times[0])
    grad_theta = [torch.zeros_like(part) for part in theta]
    grad_times = torch.zeros_like(times)
    for i in range(len(times) - 1, 0, -1):
        a = a + grad_zs[i]  # the adjoint jumps where L depends on the state (Figure 2)
        # Not all of a: another t_i is another point of the same curve, which moves no later state.
        grad_times[i] = (grad_zs[i] * f(times[i], zs[i], *theta)).sum()  # Appendix B.2
        s = pack(zs[i], a, *grad_theta, grad_t0 - grad_times[i])  # s₀ of Appendix C
        s = ode_solve(aug_dynamics, s, times[i], times[i - 1], steps, step)
        _, a, *grad_theta, grad_t0 = unpack(s, like)
    grad_times[0] = grad_t0
    return a + grad_zs[0], grad_times, grad_theta


def pack(*parts: Tensor) -> Tensor:
    """Return the parts as one vector, which is all that a solver knows."""
    return torch.cat([part.reshape(-1) for part in parts])


def unpack(s: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of a vector, shaped like those given."""
    pieces = s.split([part.numel() for part in like])
    return [piece.reshape(part.shape) for piece, part in zip(pieces, like, strict=True)]


class _Solve(torch.autograd.Function):
    """The solve as one operation of the graph, whatever its number of steps."""

    @staticmethod
    def forward(
        ctx: Any, f: Field, z0: Tensor, times: Tensor, steps: int, step: Step, *theta: Tensor
    ) -> Tensor:
        zs = [z0]
        for t0, t1 in pairwise(times):
            zs.append(ode_solve(lambda t, z: f(t, z, *theta), zs[-1], t0, t1, steps, step))
        ctx.f, ctx.steps, ctx.step = f, steps, step
        ctx.save_for_backward(times, states := torch.stack(zs), *theta)
        return states

    @staticmethod
    def backward(ctx: Any, grad_zs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("Algorithm 1 gives first derivatives; leave create_graph=True out.")
        times, zs, *theta = ctx.saved_tensors
        a, grad_times, grad_theta = reverse(ctx.f, theta, times, zs, grad_zs, ctx.steps, ctx.step)
        return None, a, grad_times, None, None, *grad_theta


def odeint(field: nn.Module, z0: Tensor, times: Tensor, steps: int, step: Step = rk4) -> Tensor:
    """Return the states ``(time, *state)``, differentiable by ``z0``, ``times`` and parameters.

    Args:
        field: Called as ``field(t, z)``; returns dz/dt.
        z0: State at the first time.
        times: Strictly monotone, ``(time,)``.
        steps: Steps from one time to the next, at least 1.
        step: `euler`, `midpoint` or `rk4`.
    """
    if steps < 1 or times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f"times has the shape {tuple(times.shape)} and steps is {steps}; give at least two "
            "times, (time,), and at least one step."
        )
    names = [name for name, _ in field.named_parameters()]

    def f(t: Tensor, z: Tensor, *theta: Tensor) -> Tensor:
        named = dict(zip(names, theta, strict=True))
        found: Tensor = functional_call(field, named, (t, z))
        return found

    states: Tensor = _Solve.apply(f, z0, times, steps, step, *field.parameters())
    return states
