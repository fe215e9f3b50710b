"""Residual blocks as Euler steps, and both panels of Figure 1."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context
from scipy.integrate import solve_ivp

from lightning_modules.solvers import watch_steps
from lightning_modules.solvers.watching import Step
from reproduce import paper, residual_paths, verdicts
from reproduce.experiments import resnet_euler
from reproduce.records import Record

TOLERANCE = paper.number("resnet_euler", "unit_steps", "largest_difference").tolerance or 0.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("resnet")
    ctx = context(out, seeds=(3,))
    return resnet_euler.run(ctx)


@pytest.mark.parametrize("blocks", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("end", [None, 1.0, 3.7])
def test_euler_steps_are_residual_blocks_to_rounding(blocks: int, end: float | None) -> None:
    f, h0 = resnet_euler.perceptron(1)
    assert max(resnet_euler.differences(f, h0, blocks, end=end)) < TOLERANCE


def test_the_check_finds_steps_that_are_not_these_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f, h0 = resnet_euler.perceptron(1)
    assert min(resnet_euler.differences(f, h0, 3, "heun")) > 1e9 * TOLERANCE
    whole = resnet_euler.residual_network
    monkeypatch.setattr(
        resnet_euler, "residual_network", lambda f, k, scale: whole(f, k, scale * (1 + 1e-12))
    )
    assert min(resnet_euler.differences(f, h0, 30)) > TOLERANCE


def test_the_gradient_of_the_blocks_is_the_slope_of_their_loss() -> None:
    f, h0 = resnet_euler.perceptron(2)
    network = resnet_euler.residual_network(f, 5, 0.2)
    _, by_input, *by_weights = resnet_euler._with_gradients(f, h0, network)
    assert len(by_weights) == len(list(f.parameters())) == 4
    weight, gradient = next(iter(f.parameters())), by_weights[0]

    def loss() -> float:
        with torch.no_grad():
            return float(network(h0).square().sum())

    direction, size = torch.ones_like(weight), 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * size * direction)
        ends.append(loss())
        with torch.no_grad():
            weight.sub_(sign * size * direction)
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(float(gradient.sum()), rel=1e-6)
    assert by_input.shape == h0.shape


def test_shared_blocks_have_the_parameters_of_one(rows: list[Record]) -> None:
    found = {r.metric: r.value for r in rows if r.row == "hundred_blocks"}
    assert found == {"parameters_shared": 148, "parameters_own": 14_800}


def test_rows_are_those_of_the_seed_and_reproduce_every_number(rows: list[Record]) -> None:
    assert {r.seed for r in rows} == {3}
    evidence = verdicts.Evidence(replace(r, profile="quick") for r in rows)
    numbers = paper.numbers("resnet_euler")
    assert len(numbers) == 4
    for number in numbers:
        assert verdicts.judge_number(number, number.row, evidence).kind == "reproduced"


def test_every_circle_is_an_evaluation_between_input_and_output() -> None:
    steps: list[Step] = []
    with watch_steps(steps.append):
        states, seen, taken = residual_paths.adaptive(0)
    assert len(steps) == taken
    # bosh3 evaluates three times a step, and once at the start and once for the first size.
    assert len(seen) == 3 * taken + 2 * len(residual_paths.INPUTS)
    assert all(0 <= t <= residual_paths.DEPTH for t, _ in seen)
    accepted = {(step.t, float(step.y0)) for step in steps if step.accepted}
    assert {(0.0, h) for h in residual_paths.INPUTS} <= accepted <= set(seen)
    assert states.shape == (2, len(residual_paths.INPUTS))


def test_jumps_go_from_layer_to_layer_along_the_field_there() -> None:
    states, seen = residual_paths.jumps(0)
    field = residual_paths.field(0)
    for layer in range(residual_paths.DEPTH):
        at = torch.tensor(float(layer), dtype=torch.float64)
        expected = states[layer] + field(at, states[layer].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(states[layer + 1], expected)
    assert sorted({t for t, _ in seen}) == [0, 1, 2, 3, 4]
    assert len(seen) == 35


def test_gaps_are_the_distances_from_the_paths_of_another_solver(rows: list[Record]) -> None:
    field = residual_paths.field(3)
    by_state, by_time, shift, out = (w.numpy() for w in field.weights)

    def slope(t: float, h: Any) -> Any:
        return (out * np.tanh(np.outer(h, by_state) + by_time * t + shift)).sum(axis=1)

    starts = np.array(residual_paths.INPUTS)
    truth = solve_ivp(slope, (0, 5), starts, method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    jumped = starts
    for layer in range(5):
        jumped = jumped + slope(layer, jumped)
    ends = residual_paths.adaptive(3)[0][-1].numpy()
    found = {r.row: r.value for r in rows if r.metric == "gap"}
    assert found == {
        "residual_network": pytest.approx(np.abs(jumped - truth).max(), abs=1e-4),
        "ode_network": pytest.approx(np.abs(ends - truth).max(), abs=1e-4),
    }
    assert found["residual_network"] > 10 * found["ode_network"] > 1e-3


def test_figure_1_has_a_panel_for_either_network(rows: list[Record]) -> None:
    left, right = resnet_euler.plot(rows).axes
    assert left.get_title().startswith("Residual network, 35 evaluations")
    circles = right.lines[-1]
    shown = next(r for r in rows if (r.row, r.metric) == ("ode_network", "evaluations"))
    assert len(circles.get_xdata()) == shown.value
    assert "largest_difference [ε]" in resnet_euler.table(rows).columns
