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


def test_units_of_a_drawn_cell_stay_right_to_rounding_where_it_saturates() -> None:
    torch.manual_seed(0)
    cell = Cell(3, 5)
    inputs = 50 * torch.randn(6, 4, 3)
    torch.testing.assert_close(cell.run(inputs), _one_by_one(cell, inputs), rtol=0, atol=2e-6)


def test_gradients_agree_with_finite_differences(cell: Cell) -> None:
    assert torch.autograd.gradcheck(cell.run, _inputs(4))
    assert torch.autograd.gradcheck(cell.last, _inputs(4))


def test_a_second_derivative_is_refused_rather_than_wrong(cell: Cell) -> None:
    inputs = _inputs()
    with pytest.raises(RuntimeError, match="step by step"):
        torch.autograd.grad(cell.last(inputs).sum(), inputs, create_graph=True)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.zeros(7, 4, 2).double(), r"\(7, 4, 2\); this cell takes \(time, series, 3\)"),
        (torch.zeros(7, 4, 4).double(), "this cell takes"),
        (torch.zeros(4, 3).double(), "this cell takes"),
        (torch.zeros(7, 4, 3), "float32 on cpu, the weights torch.float64"),
    ],
)
def test_inputs_that_do_not_fit_the_cell_are_refused(
    cell: Cell, inputs: Tensor, said: str
) -> None:
    for call in (cell.run, cell.last):
        with pytest.raises(ValueError, match=said):
            call(inputs)


def test_backward_under_autocast_keeps_its_precision() -> None:
    torch.manual_seed(0)
    cell = Cell(3, 5)
    loss = cell.last(_inputs().detach().float()).sum()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)
    for inside, outside in zip(
        rounded, torch.autograd.grad(loss, list(cell.parameters())), strict=True
    ):
        torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-7)
