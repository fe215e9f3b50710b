"""Gradients without any solver of ours: forward sensitivities, integrated by SciPy.

With S = ∂z/∂p for the initial state and the parameters p, dS/dt = ∂f/∂z S + ∂f/∂p. SciPy's DOP853
solves z and S together; the gradient of a loss of states at several times follows by the chain
rule, and that of the times from f alone: moving an output time moves the state along f, moving
the start is undone by moving the initial state against f.

Source: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", I.14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class System:
    """An autonomous system z' = f(z, p) with its derivatives.

    Args:
        field: Returns f, ``(states,)``.
        by_state: Returns ∂f/∂z, ``(states, states)``.
        by_parameters: Returns ∂f/∂p, ``(states, parameters)``.
    """

    field: Callable[[Array, Array], Array]
    by_state: Callable[[Array, Array], Array]
    by_parameters: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Gradient:
    """The gradient of a loss.

    Args:
        z0: With respect to the initial state.
        theta: With respect to the parameters.
        times: With respect to every time, the start included.
    """

    z0: Array
    theta: Array
    times: Array


def gradient(system: System, z0: Array, theta: Array, times: Array, cotangents: Array) -> Gradient:
    """Return the gradient of the sum over times of cotangent · state.

    Args:
        system: The system.
        z0: Initial state, ``(states,)``.
        theta: Parameters, ``(parameters,)``.
        times: Start and output times, ``(time,)``.
        cotangents: Gradient of the loss by the state at each time, ``(time, states)``; the first
            belongs to the start.

    Raises:
        RuntimeError: If SciPy could not integrate to its tightest tolerance.
    """
    from scipy.integrate import solve_ivp

    n, m = len(z0), len(theta)

    def augmented(t: float, flat: Array) -> Array:
        z, s = flat[:n], flat[n:].reshape(n, n + m)
        growth = system.by_state(z, theta) @ s
        growth[:, n:] += system.by_parameters(z, theta)
        return np.concatenate([system.field(z, theta), growth.ravel()])

    start = np.concatenate([z0, np.eye(n, n + m).ravel()])
    solved = solve_ivp(
        augmented, (times[0], times[-1]), start, "DOP853", times, rtol=1e-13, atol=1e-14
    )
    if not solved.success:
        raise RuntimeError(f"SciPy's reference solution failed: {solved.message}")
    states, s = solved.y[:n].T, solved.y[n:].T.reshape(len(times), n, n + m)
    total = np.einsum("ti,tij->j", cotangents, s)
    by_times = np.einsum("ti,ti->t", cotangents, [system.field(z, theta) for z in states])
    # The state at the start is z0 whatever the time, so its own cotangent has no share in t0.
    without_start = np.einsum("ti,tij->j", cotangents[1:], s[1:])[:n]
    by_times[0] = -without_start @ system.field(z0, theta)
    return Gradient(total[:n], total[n:], by_times)
