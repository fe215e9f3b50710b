"""Peak memory: every living storage once, whoever holds it."""

from typing import Any

import torch
from torch import Tensor

from reproduce.memory import peak

NUMBERS = 2**18  # a MiB in float32


def test_what_is_freed_does_not_count_and_views_count_once() -> None:
    def work() -> None:
        first = torch.zeros(NUMBERS)
        second = first + 1
        del first
        third = second.exp()
        third.view(2, -1).add_(1)

    assert peak(work) == 2


def test_what_was_there_before_does_not_count() -> None:
    before = torch.zeros(10 * NUMBERS)
    assert peak(lambda: before[:NUMBERS] + 1) == 1


def test_memory_that_only_the_graph_holds_is_seen() -> None:
    weight = torch.ones(NUMBERS, requires_grad=True)

    def chain(length: int) -> float:
        def work() -> None:
            x = weight
            for _ in range(length):
                x = x.exp()  # saves its result
            x.sum()

        return peak(work)

    assert chain(20) - chain(10) == 10


def test_memory_that_only_a_context_holds_is_seen() -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.kept = [x + i for i in range(7)]
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.kept[0]

    weight = torch.ones(NUMBERS, requires_grad=True)
    found = peak(lambda: Keeps.apply(weight))
    assert found == 8


def test_backward_counts_too() -> None:
    weight = torch.ones(NUMBERS, requires_grad=True)
    weight.grad = torch.zeros(NUMBERS)
    forward = peak(lambda: weight.exp())
    assert peak(lambda: weight.exp().sum().backward()) > forward == 1
