"""Backends of the user's own, named by where they are written."""

import importlib
from dataclasses import replace
from typing import Any

from lightning_modules.solvers import native_backend
from lightning_modules.solvers.registry import Backend, backends, register_backend


def import_backend(name: str) -> Backend:
    """Import and register the backend that ``package.module:attribute`` names.

    Importing runs the module, so nothing else in this suite does it: a name that comes from a
    file of weights or of results is looked up among the registered ones alone.

    Args:
        name: Where a `Backend` is written, or a function as `registry.Solve` describes. A bare
            function gets the name of any explicit Runge-Kutta method of this suite in its
            settings, and direct gradients as well as the adjoint are asked of it; where that does
            not fit, write a `Backend`.

    Returns:
        The backend, registered under ``name``.

    Raises:
        ValueError: If there is nothing of that name, or something else.
    """
    if name in backends():
        return backends()[name]
    found = _imported(name)
    if isinstance(found, Backend):
        backend = replace(found, name=name)
    elif callable(found) and not isinstance(found, type):
        backend = Backend(name, found, native_backend.methods, ("direct", "adjoint"))
    else:
        raise ValueError(
            f"Backend {name!r} is a {type(found).__name__}; name a Backend, or a function as "
            "lightning_modules.solvers.Solve describes."
        )
    register_backend(backend)
    return backend


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of whatever the module does when it is imported
        raise ValueError(
            f"Backend {name!r} cannot be imported: {error}. Write package.module:attribute, and "
            "install the package or put its folder on PYTHONPATH."
        ) from error
