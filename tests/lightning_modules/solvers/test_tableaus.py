"""Tableaus against the order conditions and against torchdiffeq's numbers."""

import math

import pytest
import torch
from torchdiffeq._impl.odeint import SOLVERS

from lightning_modules.solvers.tableaus import DOPRI5, TABLEAUS, ButcherTableau

ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.error is not None]
# Order of the embedded method, as the name of the pair has it; torchdiffeq's weights of dopri5
# are Shampine's.
EMBEDDED = {"bosh3": 2, "dopri5": 4, "tsit5": 4, "dopri8": 7}


def trees(tableau: ButcherTableau) -> list[tuple[int, torch.Tensor, float]]:
    """Return order, elementary weight and what its sum with b must be, for trees up to order 5.

    Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.2, table 2.2.
    """
    s = tableau.stages
    a = torch.zeros(s, s, dtype=torch.float64)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    c = torch.tensor(tableau.c, dtype=torch.float64)
    one = torch.ones_like(c)
    return [
        (1, one, 1),
        (2, c, 1 / 2),
        (3, c**2, 1 / 3),
        (3, a @ c, 1 / 6),
        (4, c**3, 1 / 4),
        (4, c * (a @ c), 1 / 8),
        (4, a @ c**2, 1 / 12),
        (4, a @ (a @ c), 1 / 24),
        (5, c**4, 1 / 5),
        (5, c**2 * (a @ c), 1 / 10),
        (5, c * (a @ c**2), 1 / 15),
        (5, c * (a @ (a @ c)), 1 / 30),
        (5, (a @ c) ** 2, 1 / 20),
        (5, a @ c**3, 1 / 20),
        (5, a @ (c * (a @ c)), 1 / 40),
        (5, a @ (a @ c**2), 1 / 60),
        (5, a @ (a @ (a @ c)), 1 / 120),
    ]


@pytest.mark.parametrize("name", TABLEAUS)
def test_rows_sum_to_their_nodes(name: str) -> None:
    tableau = TABLEAUS[name]
    assert len(tableau.a) == len(tableau.b) == len(tableau.c) == tableau.stages
    for i, (row, node) in enumerate(zip(tableau.a, tableau.c, strict=True)):
        assert len(row) == i
        assert math.fsum(row) == pytest.approx(node, abs=2e-15)


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_solution_fulfils_the_conditions_of_its_order(name: str) -> None:
    tableau = TABLEAUS[name]
    b = torch.tensor(tableau.b, dtype=torch.float64)
    gaps = [(order, abs(float(b @ w) - value)) for order, w, value in trees(tableau)]
    assert max(gap for order, gap in gaps if order <= tableau.order) < 1e-14
    if tableau.order < 5:
        assert max(gap for order, gap in gaps if order == tableau.order + 1) > 1e-3


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_embedded_method_has_its_order(name: str) -> None:
    tableau = TABLEAUS[name]
    e = torch.tensor(tableau.error, dtype=torch.float64)
    gaps = [(order, abs(float(e @ w))) for order, w, _ in trees(tableau)]
    assert max(gap for order, gap in gaps if order <= EMBEDDED[name]) < 1e-14
    if EMBEDDED[name] < 5:
        assert max(gap for order, gap in gaps if order == EMBEDDED[name] + 1) > 1e-5


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_last_stage_of_adaptive_methods_opens_the_next_step(name: str) -> None:
    assert TABLEAUS[name].fsal  # the step loop relies on it


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8"])
def test_numbers_are_those_of_torchdiffeq(name: str) -> None:
    ours, solver = TABLEAUS[name], SOLVERS[name]
    assert ours.order == solver.order
    for mine, other in [
        (ours.b, solver.tableau.c_sol),
        (ours.error, solver.tableau.c_error),
        (ours.c[1:], solver.tableau.alpha),
        *zip(ours.a[1:], solver.tableau.beta, strict=True),
    ]:
        assert list(mine or ()) == pytest.approx(other.tolist(), abs=1e-16)


def test_the_interpolant_of_dopri5_meets_the_step_at_both_ends_and_the_middle() -> None:
    assert DOPRI5.weights_at(0.0) == (0.0,) * 7
    assert DOPRI5.weights_at(1.0) == pytest.approx(DOPRI5.b, abs=1e-14)
    middle = SOLVERS["dopri5"].mid.tolist()
    assert DOPRI5.weights_at(0.5) == pytest.approx(middle, abs=1e-14)
