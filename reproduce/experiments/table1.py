"""Table 1: on MNIST, is an ODE-Net as accurate as a ResNet with three times its parameters?

Trains the paper's four networks, the perceptron twice, and tests the final weights on the 10,000
test images. `quick` takes minutes on two CPU cores and one seed; `paper` is 160 epochs.

Deviations from the paper, which gives neither optimizer, schedule, augmentation nor seeds:

1. Training follows the authors' later public example: SGD 0.1, momentum 0.9, drops after epochs
   60, 100 and 140 of 160, batch 128 (drop_last: 468 an epoch), random crop of 28 from 36 pixels.
2. Solver: dopri5 at tolerance 1e-3 in place of the Fortran Adams code behind SciPy, by our native
   backend, which takes the steps that torchdiffeq takes in less time (`step_time`).
   `--set model.solver.backend=torchdiffeq` trains with that library.
3. Stem: two strided residual blocks. Its ResNet has 601,482 parameters, the paper's 0.60 M; its
   ODE-Net has 232,970, where the paper prints 0.22 M. `--set model.stem=conv` takes the other one.
4. The paper quotes the perceptron from LeCun et al. (1998), where 1.6 % belongs to deskewed
   images. Both rows here are 784-300-10 without augmentation, on raw and on deskewed images.
5. All 60,000 images train and nothing is selected: the weights after the last update are tested,
   in mini-batches of 1,000, each of which is one differential equation.
6. `short` and `quick` replace the schedule by one cycle over 3 epochs or over one.

Beside the rows stand the training curves, the misclassified test images of every seed and the
weights of the first, of the ODE-Net those of all (`curves`, `errors`, `weights`).
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
ROWS = ("mlp", "mlp_deskewed", "resnet", "rknet", "odenet")
PROFILES = classification.profiles({"smoke": 1, "quick": 9, "short": 55})


def run(ctx: Context) -> list[Record]:
    """Train every row with every seed; write a seed's rows as soon as its test has ended."""
    return classification.run(ctx, "table1", PROFILES[ctx.profile], ROWS)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: error, parameters, evaluations, seconds and memory, means over seeds."""
    return classification.table(records, ROWS)


def plot(records: list[Record]) -> "Figure":
    """Test error of every seed beside the paper's, and parameters, row by row."""
    return classification.plot(records, ROWS, "Table 1 on MNIST")
