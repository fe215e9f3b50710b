"""Updates look for no driver where there is none, and find a GPU where there is one."""

import ctypes
import os
from typing import Any

import pytest
import torch
from torch import nn

import lightning_modules
from lightning_modules.driver import LIBRARY, VARIABLE, end_search


def absent(name: str, *_: Any) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def has_driver() -> bool:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("rule", ["Adam", "RMSprop"])
@pytest.mark.skipif(
    has_driver() or not torch.backends.cuda.is_built() or bool(torch.version.hip),
    reason="a driver is here, or torch asks for none",
)
def test_an_update_searches_for_no_driver_where_there_is_none(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lightning_modules.__all__  # imported, and with it Lightning
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: asked.append(rule) or -1)
    weight = nn.Parameter(torch.ones(2))
    optimizer = getattr(torch.optim, rule)([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    assert not asked


def test_a_driver_is_asked_as_lightning_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name)
    end_search()
    assert os.environ[VARIABLE] == "1"
    monkeypatch.setattr(ctypes, "CDLL", absent)
    end_search()
    assert VARIABLE not in os.environ
