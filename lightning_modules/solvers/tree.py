"""The modules of a field, several looks at which are a part of every solve."""

import weakref
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def modules_of(field: object) -> list[nn.Module]:
    """Return a field and the modules within, each once, in the order of ``nn.Module.modules``.

    Nothing for what is no module. It takes less than half of that one's time, which goes into
    names that nobody asks for: around a compiled solve of a few hundred microseconds it counts.
    """
    if not isinstance(field, nn.Module):
        return []
    if isinstance(field, weakref.ProxyTypes):  # which have no hash
        return list(field.modules())
    found: dict[nn.Module, None] = {}
    _add(field, found)
    return list(found)


def _add(module: nn.Module, found: dict[nn.Module, None]) -> None:
    found[module] = None
    for inner in module._modules.values():
        if inner is not None and inner not in found:
            _add(inner, found)


_LISTED_BY = ("parameters", "named_parameters", "_named_members", "named_modules")


def parameters_of(field: object) -> Iterable[nn.Parameter]:
    """Return the parameters of a field in the order of ``nn.Module.parameters``.

    Nothing for what is no module. A field whose class lists its parameters in its own way is
    asked; the modules within are not.
    """
    if not isinstance(field, nn.Module):
        return ()
    kind = type(field)
    if any(getattr(kind, name, None) is not getattr(nn.Module, name) for name in _LISTED_BY):
        return field.parameters()
    found = {id(p): p for part in modules_of(field) for p in part._parameters.values()}
    return [p for p in found.values() if p is not None]


def only_written(module: nn.Module) -> bool:
    """Return whether its buffers are averages that it writes, in training, and does not read."""
    return module.training and isinstance(module, _NormBase)
