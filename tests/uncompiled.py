"""Compiled solves without the compiler, which takes seconds for each."""

from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The traced functions, which run as they are: only the compiler is left out."""
    graphs: list[torch.fx.GraphModule] = []

    def uncompiled(
        graph: torch.fx.GraphModule, examples: list[Tensor], options: dict[str, Any]
    ) -> Any:
        assert not any(example.requires_grad for example in examples)
        strides = [example.stride() for example in examples]

        def run(*given: Tensor) -> Any:
            assert [x.stride() for x in given] == strides  # as compiled code expects
            before = [x.clone() for x in given]
            found = graph(*given)
            torch.testing.assert_close(list(given), before, rtol=0, atol=0, equal_nan=True)
            return found

        graphs.append(graph)
        return run

    monkeypatch.setattr(torch._inductor, "compile", uncompiled)
    return graphs
