"""Hyper-parameters as plain values, so that checkpoints load with ``weights_only=True``."""

from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def plain(**values: Any) -> dict[str, Any]:
    """Turn settings dataclasses into dictionaries and keep every other value.

    Lightning stores whatever a constructor was given; dictionaries are read by anybody, without
    this package, and outlive a dataclass that gets another name. Passed to
    ``save_hyperparameters`` explicitly, the result is the same whether the command line or Python
    built the module.
    """
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in values.items()
    }


def settings(kind: type[Settings], given: Settings | dict[str, Any]) -> Settings:
    """Return ``given`` as an instance of ``kind``: checkpoints hand back dictionaries.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, dict):
        return kind(**given)
    if not isinstance(given, kind):
        raise ValueError(f"{given!r} was given for {kind.__name__}; pass one, or a dictionary.")
    return given
