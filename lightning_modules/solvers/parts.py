"""The modules and parameters of a field, several looks at which are a part of every solve."""

from torch import Tensor, nn


def parts_of(field: object) -> list[nn.Module]:
    """Return what ``nn.Module.modules`` yields, in its order; nothing for what is no module.

    In a quarter of its time, which goes into names that nobody asks for: around a compiled solve
    of a few hundred microseconds that counts.
    """
    if not isinstance(field, nn.Module):
        return []
    found: dict[nn.Module, None] = {}
    _add(field, found)
    return list(found)


def trainable(field: object) -> tuple[Tensor, ...]:
    """Return those of the parameters that want a gradient; nothing for what is no module."""
    if not isinstance(field, nn.Module):
        return ()
    if _names_its_own(field):
        return tuple(p for p in field.parameters() if p.requires_grad)
    held = (p for part in parts_of(field) for p in part._parameters.values())
    found = {id(p): p for p in held if p is not None and p.requires_grad}
    return tuple(found.values())


def _names_its_own(field: nn.Module) -> bool:
    kind = type(field)
    return (
        kind.parameters is not nn.Module.parameters
        or kind.named_parameters is not nn.Module.named_parameters
    )


def _add(part: nn.Module, found: dict[nn.Module, None]) -> None:
    found[part] = None
    for inner in part._modules.values():
        if inner is not None and inner not in found:
            _add(inner, found)
