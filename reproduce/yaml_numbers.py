"""YAML as people write numbers: 1e-4 is one, which YAML 1.1 reads as text."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads plain values alone, as ``yaml.safe_load`` does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load(text: str) -> Any:
    """Return what a YAML text says; nothing in it is imported.

    Raises:
        yaml.YAMLError: If it is no YAML.
    """
    return yaml.load(text, Loader=_Loader)
