"""The adjoint of a linear system: its closed form, its jumps, and what the suite makes of them."""

import numpy as np
import pytest
from contexts import context

from reproduce import paper, verdicts
from reproduce.experiments import adjoint_jumps
from reproduce.experiments.adjoint_jumps import OBSERVED, START, TARGET, W
from reproduce.records import Record
from reproduce.sensitivities import System, gradient


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("jumps")
    ctx = context(out, "quick")
    return adjoint_jumps.run(ctx)


def _loss_from(t: float, z: np.ndarray) -> float:
    """Return the loss at the observations from t on, of the path through z at t; by DOP853."""
    from scipy.integrate import solve_ivp

    at = [s for s in OBSERVED if s >= t]
    solved = solve_ivp(
        lambda _, y: W @ y, (t, at[-1] + 1e-9), z, "DOP853", at, rtol=1e-12, atol=1e-13
    )
    return float(((solved.y.T - TARGET) ** 2).sum())


@pytest.mark.parametrize("t", [0.0, 3.3, 5.0, 9.99, 20.0, 24.0])
def test_the_closed_form_is_the_slope_of_the_loss_that_is_still_to_come(t: float) -> None:
    found, size = adjoint_jumps.adjoint(t), 1e-5
    for k in range(2):
        step = size * np.eye(2)[k]
        z = adjoint_jumps.state(t)
        slope = (_loss_from(t, z + step) - _loss_from(t, z - step)) / (2 * size)
        assert found[k] == pytest.approx(slope, abs=1e-7)


def test_it_jumps_at_observations_alone_and_follows_the_adjoint_equation_between() -> None:
    for t, cotangent in zip(OBSERVED, adjoint_jumps.cotangents(), strict=True):
        jump = adjoint_jumps.adjoint(t) - adjoint_jumps.adjoint(t, jumped=False)
        np.testing.assert_allclose(jump, cotangent, atol=1e-14)
    size = 1e-5
    ends = [adjoint_jumps.adjoint(7.0 + sign * size) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * size)
    np.testing.assert_allclose(slope, -W.T @ adjoint_jumps.adjoint(7.0), atol=1e-9)
    assert not adjoint_jumps.adjoint(25.1).any()


def test_closed_gradients_are_those_of_forward_sensitivities() -> None:
    system = System(
        lambda z, p: p.reshape(2, 2) @ z,
        lambda z, p: p.reshape(2, 2),
        lambda z, p: np.kron(np.eye(2), z),
    )
    weights = np.vstack([[0.0, 0.0], adjoint_jumps.cotangents()])
    true = gradient(system, START, W.ravel(), np.array([0.0, *OBSERVED]), weights)
    np.testing.assert_allclose(adjoint_jumps.adjoint(0.0), true.z0, atol=1e-10)
    np.testing.assert_allclose(adjoint_jumps.by_weights().ravel(), true.theta, atol=1e-10)


def test_every_number_is_reproduced(rows: list[Record]) -> None:
    evidence = verdicts.Evidence(rows)
    numbers = paper.numbers("adjoint_jumps")
    assert len(numbers) == 17
    found = {n.name: verdicts.judge_number(n, n.row, evidence).kind for n in numbers}
    assert set(found.values()) == {"reproduced"}


def test_the_last_jump_is_the_one_of_the_decks_example() -> None:
    # 2 (h(25) - target) with h(25) = (0.01508034, 0.03608471) by the slide's formula.
    expected = 2 * (np.array([0.01508034, 0.03608471]) - TARGET)
    np.testing.assert_allclose(adjoint_jumps.cotangents()[-1], expected, atol=2e-8)


def test_errors_fall_with_the_tolerance(rows: list[Record]) -> None:
    found = {(r.row, r.metric): r.value for r in rows}
    metrics = ["a_error", "z0_error", "theta_error", *(f"jump_error_{i}" for i in range(1, 6))]
    for metric in metrics:
        errors = [found[f"adjoint_{name}", metric] for name in adjoint_jumps.TOLERANCES]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-8


def test_an_adjoint_without_one_of_its_jumps_is_found_out() -> None:
    watched = adjoint_jumps.watch(1e-6)
    watched.jumps[2] = 0.0
    assert adjoint_jumps.errors(watched)["jump_error_3"] == 1
    (t, a), end = watched.steps[4]
    watched.steps[4] = ((t, a + 0.1), end)
    assert adjoint_jumps.errors(watched)["a_error"] > 0.01


def test_steps_land_on_every_observation_and_end_at_the_start() -> None:
    steps = adjoint_jumps.watch(1e-3).steps
    assert steps[0][0][0] == OBSERVED[-1]
    assert {end[0] for _, end in steps} >= {0.0, *OBSERVED[:-1]}
    np.testing.assert_allclose(steps[-1][1][1], adjoint_jumps.watch(1e-3).z0)


def test_the_figure_shows_the_state_above_its_adjoint(rows: list[Record]) -> None:
    above, below = adjoint_jumps.plot(rows).axes
    assert above.get_ylabel() == "state z"
    assert "backwards" in below.get_title()
    assert len(adjoint_jumps.table(rows)) == len(adjoint_jumps.TOLERANCES)
