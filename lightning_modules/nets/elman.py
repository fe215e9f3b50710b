"""Elman's recurrent cell, and a fast way through a whole sequence with it."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.solvers import differentiable_once


class Cell(nn.Module):
    """Elman's cell h' = tanh(W u + b + V h).

    Args:
        inputs: Numbers in u.
        hidden: Units h.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.into = nn.Linear(inputs, hidden)
        self.memory = nn.Linear(hidden, hidden, bias=False)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        """Return the next units ``(series, hidden)`` for an input ``(series, inputs)``."""
        return torch.addmm(self.into(u), h, self.memory.weight.T).tanh()

    def run(self, inputs: Tensor) -> Tensor:
        """Return the units before the first input, zeros, and after each.

        Args:
            inputs: ``(time, series, inputs)``.

        Returns:
            ``(time + 1, series, hidden)``, differentiable once.

        Raises:
            ValueError: If the inputs do not fit the cell.
        """
        units, _ = self._scan(inputs)
        return (2 * units - 1).transpose(1, 2)

    def last(self, inputs: Tensor) -> Tensor:
        """Return the units after the last of ``inputs`` alone, ``(series, hidden)``.

        Arguments and errors as in `run`.
        """
        _, last = self._scan(inputs)
        return (2 * last - 1).T

    def _scan(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Go through a sequence in s = (h + 1) / 2, whose next value is one product away.

        tanh(x) = 2 σ(2x) - 1, so s' = σ(4 V s + 2 W u + 2 b - 2 V 1): a product of one matrix with
        the column [s, u, 1]. On a CPU, in float32, σ costs a sixth of tanh. The price is absolute
        rounding: h comes out of differences of numbers of the size of 1 and of V, so units and
        weights far from that size lose digits that the loop would keep.
        """
        memory = self.memory.weight
        if inputs.ndim != 3 or inputs.shape[2] != self.into.in_features:
            raise ValueError(
                f"The inputs are {tuple(inputs.shape)}; this cell takes "
                f"(time, series, {self.into.in_features})."
            )
        if inputs.dtype != memory.dtype or inputs.device != memory.device:
            raise ValueError(
                f"The inputs are {inputs.dtype} on {inputs.device}, the weights {memory.dtype} on "
                f"{memory.device}. Move one to the other."
            )
        offset = 2 * (self.into.bias - memory.sum(dim=1))
        matrix = torch.cat([4 * memory, 2 * self.into.weight, offset.unsqueeze(1)], dim=1)
        units, last = _Scan.apply(inputs, matrix)
        return units, last


class _Scan(torch.autograd.Function):
    """s_{k+1} = σ(M x_k), x_k = [s_k, u_k, 1], from s_0 = 1/2, with its gradient written out.

    Everything is kept as columns, ``(numbers, series)``, where each product is written to its
    place in the next x. Returns all s, ``(time + 1, hidden, series)``, and the last by itself, so
    that a loss of the last one alone sends no zeros back through all.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        steps, series, numbers = inputs.shape
        hidden = len(matrix)
        columns = matrix.new_empty(steps + 1, matrix.shape[1], series)
        columns[:, hidden : hidden + numbers][:steps] = inputs.transpose(1, 2)
        columns[:, -1] = 1.0
        units = columns[:, :hidden]
        units[0] = 0.5
        for column, following in zip(columns[:-1].unbind(), units[1:].unbind(), strict=True):
            torch.mm(matrix, column, out=following).sigmoid_()
        ctx.save_for_backward(columns, matrix)
        ctx.set_materialize_grads(False)
        return units, units[-1].clone()

    @staticmethod
    @differentiable_once("a recurrent run is one operation. Take the cell step by step instead.")
    def backward(
        ctx: Any, grad_units: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        columns, matrix = ctx.saved_tensors
        if grad_units is None and grad_last is None:
            return None, None
        with torch.autocast(columns.device.type, enabled=False):
            return _back(columns, matrix, grad_units, grad_last, inputs=ctx.needs_input_grad[0])


def _back(
    columns: Tensor,
    matrix: Tensor,
    grad_units: Tensor | None,
    grad_last: Tensor | None,
    *,
    inputs: bool,
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients by the inputs, if they are asked for, and by the matrix."""
    hidden, steps = len(matrix), len(columns) - 1
    pulled = matrix[:, :hidden].T
    kappas = columns.new_empty(steps, hidden, columns.shape[2])
    grad = columns.new_zeros(hidden, columns.shape[2]) if grad_last is None else grad_last
    for k in range(steps, 0, -1):
        if grad_units is not None:
            grad = grad + grad_units[k]
        kappa = kappas[k - 1]
        torch.ops.aten.sigmoid_backward.grad_input(grad, columns[k, :hidden], grad_input=kappa)
        grad = pulled @ kappa
    # One product over all steps: on two cores it takes half the time of one a step.
    grad_matrix = torch.bmm(kappas, columns[:-1].transpose(1, 2)).sum(dim=0)
    if not inputs:
        return None, grad_matrix
    return (matrix[:, hidden:-1].T @ kappas).transpose(1, 2), grad_matrix
