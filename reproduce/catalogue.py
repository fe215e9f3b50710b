"""What can be regenerated, known without importing any of it."""

import ast
from pathlib import Path

EXPERIMENTS = Path(__file__).parent / "experiments"


def names() -> list[str]:
    """Return the experiments' names."""
    return sorted(p.stem for p in EXPERIMENTS.glob("*.py") if not p.stem.startswith("_"))


def claim(name: str) -> str:
    """Return the first line of an experiment's docstring."""
    tree = ast.parse((EXPERIMENTS / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]
