"""What every part of the command line says when it is asked for something that does not exist."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """The command line asks for something that does not exist."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that are most like ``name``, or all of them, for a message."""
    choices = list(known)
    return ", ".join(difflib.get_close_matches(name, choices, n=3) or choices)
