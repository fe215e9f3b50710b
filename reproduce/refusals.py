"""What jsonargparse says of a bad setting, in one line."""

import re
from collections.abc import Sequence

_NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type",
    "Given value: NestedArg",
)


def last(lines: Sequence[str]) -> str:
    """Return the reason of the last refusal among the lines that a process printed."""
    start = max((i for i, line in enumerate(lines) if line.startswith("error:")), default=0)
    return reason("\n".join(lines[start:]))


def reason(message: str) -> str:
    """Pick the reason out of a message of jsonargparse's, which lists every type it tried."""
    bare = [line.strip().removeprefix("error:").strip() for line in message.splitlines()]
    told = [line.removeprefix("- ") for line in bare]
    kept = [line for line in told if line and not line.startswith(_NOISE)]
    # A short value helps; a long one is the whole configuration.
    text = " ".join(line for line in kept if not line.startswith("Given value") or len(line) < 60)
    text = re.sub(r'Parser key "model": Problem with given class_path \S+ ', "", text)
    return re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
