"""The recurrent cell and its fast way through a sequence."""

import pytest
import torch
from torch import Tensor

from lightning_modules.nets.elman import Cell


def _one_by_one(cell: Cell, inputs: Tensor) -> Tensor:
    units = [inputs.new_zeros(inputs.shape[1], cell.hidden)]
    for u in inputs:
        units.append(cell(u, units[-1]))
    return torch.stack(units)


@pytest.fixture
def cell() -> Cell:
    torch.manual_seed(0)
    return Cell(3, 5).double()


def _inputs(steps: int = 7) -> Tensor:
    drawn = torch.randn(
        steps, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return drawn.requires_grad_()


def _gradients(cell: Cell, inputs: Tensor, units: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, units.numel(), dtype=units.dtype).view(units.shape)
    return torch.autograd.grad((units * weights).sum(), [inputs, *cell.parameters()])


def test_a_whole_run_is_the_cell_step_by_step_with_the_same_gradients(cell: Cell) -> None:
    inputs = _inputs()
    expected, found = _one_by_one(cell, inputs), cell.run(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    both = zip(_gradients(cell, inputs, found), _gradients(cell, inputs, expected), strict=True)
    for ours, autograds in both:
        torch.testing.assert_close(ours, autograds, rtol=1e-12, atol=1e-13)


def test_the_last_units_alone_are_those_of_the_run_with_the_same_gradients(cell: Cell) -> None:
    inputs = _inputs()
    expected, found = _one_by_one(cell, inputs)[-1], cell.last(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    both = zip(_gradients(cell, inputs, found), _gradients(cell, inputs, expected), strict=True)
    for ours, autograds in both:
        torch.testing.assert_close(ours, autograds, rtol=1e-12, atol=1e-13)


def test_all_units_and_the_last_may_share_one_loss(cell: Cell) -> None:
    inputs = _inputs()
    units, last = cell._scan(inputs)
    both = torch.autograd.grad(units.square().sum() + (3 * last).sum(), inputs)[0]
    units, _ = cell._scan(inputs)
    alone = torch.autograd.grad(units.square().sum() + (3 * units[-1]).sum(), inputs)[0]
    torch.testing.assert_close(both, alone)


def test_a_sequence_of_nothing_leaves_the_units_at_zero(cell: Cell) -> None:
    inputs = _inputs(0)
    units = cell.run(inputs)
    assert units.shape == (1, 4, 5)
    assert not units.any()
    assert _gradients(cell, inputs, units)[0].shape == (0, 4, 3)


def test_inputs_that_need_no_gradient_get_none(cell: Cell) -> None:
    inputs = _inputs().detach()
    cell.last(inputs).sum().backward()
    assert inputs.grad is None
    assert all(p.grad is not None and bool(p.grad.any()) for p in cell.parameters())


def test_units_stay_right_to_rounding_where_the_cell_saturates() -> None:
    torch.manual_seed(0)
    cell = Cell(3, 5)
    inputs = 50 * torch.randn(6, 4, 3)
    torch.testing.assert_close(cell.run(inputs), _one_by_one(cell, inputs), rtol=0, atol=2e-6)
