"""Does Table 1 need the ODE block, six residual blocks, or time in the field?

Trains what Table 1 leaves out, by the same protocol, and tests the final weights on the 10,000
test images; `compare` sets these rows beside those of `table1` (claims C21 and C22).

- `no_block`: stem and head alone.
- `one_block`: a ResNet with one residual block in place of six.
- `small_resnet`: a ResNet of the ODE-Net's size: six blocks of width 40 with 8 groups, 235,770
  parameters against 232,970.
- `timeless_field`: the ODE-Net without t as an input of its field.

Deviations from the paper: it tests none of these. Data, optimizer, schedule, stem and solver are
those of `table1`, whose deviations hold here too. The small ResNet narrows stem and head as well,
since they share their width with the blocks.
"""

from typing import TYPE_CHECKING

from reproduce import classification
from reproduce.context import Context
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PROTOCOL = classification.PROTOCOL
TRAINS = True
ROWS = ("no_block", "one_block", "small_resnet", "timeless_field")
PROFILES = classification.profiles({"smoke": 1, "short": 25})


def run(ctx: Context) -> list[Record]:
    """Train every row with every seed; write a seed's rows as soon as its test has ended."""
    return classification.run(ctx, "ablations", PROFILES[ctx.profile], ROWS)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: error, parameters, evaluations, seconds and memory, means over seeds."""
    return classification.table(records, ROWS)


def plot(records: list[Record]) -> "Figure":
    """Test error of every seed and parameters, row by row."""
    return classification.plot(records, ROWS, "Ablations of Table 1")
