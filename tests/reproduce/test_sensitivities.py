"""Forward sensitivities: the gradients of a linear equation in closed form."""

import numpy as np
import pytest
from scipy.linalg import expm

from reproduce.experiments import gradients
from reproduce.sensitivities import gradient


def test_the_linear_equation_has_the_gradients_of_the_matrix_exponential() -> None:
    problem = gradients._problem("linear")
    a, times, weight = problem.theta.reshape(2, 2), np.array([0.0, 2.0]), np.array([0.6, -1.0])
    found = gradient(
        problem.system, problem.z0, problem.theta, times, np.stack([np.zeros(2), weight])
    )
    grown = expm(2 * a)
    np.testing.assert_allclose(found.z0, weight @ grown, rtol=1e-10)
    np.testing.assert_allclose(found.times[1], weight @ a @ grown @ problem.z0, rtol=1e-10)
    np.testing.assert_allclose(found.times[0], -found.times[1], rtol=1e-10)
    # ∫ e^{A'(T-s)} w z(s)' ds with z(s)' = z0' e^{A's} is a block of a larger exponential.
    block = np.block([[a.T, np.outer(weight, problem.z0)], [np.zeros((2, 2)), a.T]])
    integral = expm(2 * block)[:2, 2:]
    np.testing.assert_allclose(found.theta.reshape(2, 2), integral, rtol=1e-9)


@pytest.mark.parametrize("name", gradients.PROBLEMS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    from scipy.integrate import solve_ivp

    problem = gradients._problem(name)
    times = np.linspace(0.0, 1.0, 3)
    weight = np.array([[0.3, -0.2], [1.0, 0.4], [-0.3, 0.8]])

    def loss(z0: np.ndarray, theta: np.ndarray, ticks: np.ndarray) -> float:
        solved = solve_ivp(
            lambda t, z: problem.system.field(z, theta), (ticks[0], ticks[-1]), z0, "DOP853",
            ticks, rtol=1e-12, atol=1e-13,
        )  # fmt: skip
        return float((solved.y.T * weight).sum())

    found = gradient(problem.system, problem.z0, problem.theta, times, weight)
    point = (problem.z0, problem.theta, times)
    for place, analytic in enumerate((found.z0, found.theta, found.times)):
        for i in range(len(point[place])):
            ends = []
            for h in (1e-5, -1e-5):
                moved = [part.copy() for part in point]
                moved[place][i] += h
                ends.append(loss(*moved))
            assert analytic[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)
