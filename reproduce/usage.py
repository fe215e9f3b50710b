"""What every part of the command line knows of it, and says when something does not exist."""

import difflib
from collections.abc import Iterable
from pathlib import Path

DEFAULT_OUT = Path("results/local")  # what a command writes to without --out
VERBS = {
    "list": "what can be regenerated",
    "all": "every table and figure, one after another",
    "compare": "this machine's results beside the shipped ones and the paper's, with verdicts; "
    "or two folders of results",
    "status": "what is done, running, interrupted, failed and to do, and the time left",
    "report": "the results in --out as one page to read (index.html) and as Markdown (README.md)",
}


class UsageError(ValueError):
    """The command line asks for something that does not exist."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return, for a message, the known names that ``name`` may mean, or where all are told."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {', '.join(near)}?" if near else "See `python -m reproduce list`."
