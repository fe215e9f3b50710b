"""What a YAML text states, in plain values."""

import json
from typing import Any

import yaml
from jsonargparse import get_loader

# What the loader and the tags of YAML raise for what is nothing.
_REFUSED = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)


def read(text: str) -> Any:
    """Return numbers, texts, lists and mappings as a training reads them: 1e-4 is a number.

    Raises:
        ValueError: If it is no YAML, or states something else, such as a set or a list of itself.
    """
    try:
        value = get_loader("yaml")(text)
        json.dumps(value)
    except _REFUSED as error:
        raise ValueError(" ".join(str(error).split())) from error
    return value
