"""Coefficients of explicit Runge-Kutta methods, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

Row = tuple[float, ...]
FEW = 8  # fractions up to which numbers of the host are faster than tensors


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method with s stages.

    k_i = f(t + c_i h, y + h Σ_j a_ij k_j) and y(t + h) = y + h Σ_i b_i k_i.

    Args:
        order: Order of the solution.
        c: Nodes, ``(s,)``.
        a: Row i holds the i coefficients of stage i, the first row none.
        b: Weights of the solution, ``(s,)``.
        error: Weights of the error estimate, b less those of the embedded method, ``(s,)``;
            without them the method takes fixed steps.
        interpolant: For each stage the coefficients of x, x², … of the polynomial w_i in
            y(t + xh) = y + h Σ_i w_i(x) k_i; without it a solver lands on its output times.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row | None = None
    interpolant: tuple[Row, ...] | None = None

    @property
    def stages(self) -> int:
        """The number s of stages."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the first of the next step (first same as last)."""
        return len(self.b) > 1 and self.b == (*self.a[-1], 0.0)

    @property
    def inputs(self) -> tuple[Row, ...]:
        """Rows of every stage's input and last that of y(t + h), a stage's own if FSAL."""
        return self.a if self.fsal else (*self.a, self.b)

    def weights_at(self, x: Any) -> tuple[Any, ...]:
        """Return w_i(x), ``(s,)``, for a float or a scalar tensor ``x``."""
        assert self.interpolant is not None
        return tuple(_polynomial(row, x) for row in self.interpolant)

    def weights_at_all(self, xs: Sequence[float]) -> Tensor:
        """Return w_i at several x, ``(len(xs), s)`` in float64."""
        assert self.interpolant is not None
        if len(xs) <= FEW:
            rows = [self.weights_at(x) for x in xs]
            return torch.tensor(rows, dtype=torch.float64, device="cpu")
        x = torch.tensor(xs, dtype=torch.float64, device="cpu")
        return polynomials(_by_power(self.interpolant), x)


def polynomials(by_power: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return w_i at several x, ``(outputs, s)``.

    Args:
        by_power: Coefficients of x, x², …, each ``(s,)``.
        x: Fractions of a step, ``(outputs,)``.
    """
    x = x.unsqueeze(1)
    total = by_power[-1] * x
    for coefficients in reversed(by_power[:-1]):
        total = (total + coefficients) * x
    return total


@cache
def _by_power(interpolant: tuple[Row, ...]) -> tuple[Tensor, ...]:
    """Return the coefficients of x, x², …, each ``(s,)`` in float64."""
    return torch.tensor(interpolant, dtype=torch.float64, device="cpu").unbind(dim=1)


def _polynomial(row: Row, x: Any) -> Any:
    total: Any = 0.0
    for coefficient in reversed(row):
        total = (total + coefficient) * x
    return total


def _less(b: Sequence[float], embedded: Sequence[float]) -> Row:
    return tuple(x - y for x, y in zip(b, embedded, strict=True))


def _quartic(b: Row, mid: Row) -> tuple[Row, ...]:
    """Return the quartic through y, y(t + h/2) and y(t + h) with the slopes at both ends.

    Source: torchdiffeq, ``_impl/interp.py``, with y(t + h/2) = y + h Σ mid_i k_i put in.
    """
    first = (1.0, *[0.0] * (len(b) - 1))
    last = (*[0.0] * (len(b) - 1), 1.0)
    return tuple(
        (
            f,
            z - 4 * f - 5 * s + 16 * m,
            5 * f - 3 * z + 14 * s - 32 * m,
            2 * (z - f) - 8 * s + 16 * m,
        )
        for f, z, s, m in zip(first, last, b, mid, strict=True)
    )


# Euler (1768); Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.1.
EULER = ButcherTableau(order=1, c=(0.0,), a=((),), b=(1.0,))

# Runge (1895): slope at the midpoint; ibid., II.1, table 1.1.
MIDPOINT = ButcherTableau(order=2, c=(0.0, 1 / 2), a=((), (1 / 2,)), b=(0.0, 1.0))

# Heun (1900), the explicit trapezoid rule: torchdiffeq's heun2.
HEUN = ButcherTableau(order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(1 / 2, 1 / 2))

# Kutta (1901), "the" Runge-Kutta method; Hairer et al., II.1, table 1.2 left.
RK4 = ButcherTableau(
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# Kutta (1901), the 3/8 rule: torchdiffeq's rk4; Hairer et al., II.1, table 1.2 right.
RK4_38 = ButcherTableau(
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
)

# Bogacki and Shampine (1989), "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Lett. 2.
_BOSH3_B = (2 / 9, 1 / 3, 4 / 9, 0.0)
BOSH3 = ButcherTableau(
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=_BOSH3_B,
    error=_less(_BOSH3_B, (7 / 24, 1 / 4, 1 / 3, 1 / 8)),
)

# Dormand and Prince (1980), J. Comput. Appl. Math. 6. The embedded weights are Shampine's (1986,
# Math. Comp. 46), and with them the interpolant's midpoint, as torchdiffeq has both: step
# counts differ from those of libraries with the embedded weights of 1980.
_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_DOPRI5_MID = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
DOPRI5 = ButcherTableau(
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B[:-1],
    ),
    b=_DOPRI5_B,
    error=_less(
        _DOPRI5_B,
        (1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60),
    ),
    interpolant=_quartic(_DOPRI5_B, _DOPRI5_MID),
)

# Tsitouras (2011), "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption", Comput. Math. Appl. 62, table 1 to the digits of float64.
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)
TSIT5 = ButcherTableau(
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B[:-1],
    ),
    b=_TSIT5_B,
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
)

# Prince and Dormand (1981), "High order embedded Runge-Kutta formulae", J. Comput. Appl. Math. 7:
# the pair 8(7)13M with f(t + h, y(t + h)) as a fourteenth stage that opens the next step.
# torchdiffeq's interpolant for it has a low order and is left out.
# fmt: off
_DOPRI8_B = (
    14005451 / 335480064, 0.0, 0.0, 0.0, 0.0, -59238493 / 1068277825, 181606767 / 758867731,
    561292985 / 797845732, -1041891430 / 1371343529, 760417239 / 1151165299, 118820643 / 751138087,
    -528747749 / 2220607170, 1 / 4, 0.0,
)
DOPRI8 = ButcherTableau(
    order=8,
    c=(
        0.0, 1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200, 5490023248 / 9719169821,
        13 / 20, 1201146811 / 1299019798, 1.0, 1.0, 1.0,
    ),
    a=(
        (),
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (
            29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000,
            23124283 / 1800000000,
        ),
        (
            16016141 / 946692911, 0.0, 0.0, 61564180 / 158732637, 22789713 / 633445777,
            545815736 / 2771057229, -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083, 0.0, 0.0, -433636366 / 683701615, -421739975 / 2616292301,
            100302831 / 723423059, 790204164 / 839813087, 800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787, 0.0, 0.0, -37695042795 / 15268766246, -309121744 / 1061227803,
            -12992083 / 490766935, 6005943493 / 2108947869, 393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014, 0.0, 0.0, 8478235783 / 508512852, 1311729495 / 1432422823,
            -10304129995 / 1701304382, -48777925059 / 3047939560, 15336726248 / 1032824649,
            -45442868181 / 3398467696, 3065993473 / 597172653,
        ),
        (
            185892177 / 718116043, 0.0, 0.0, -3185094517 / 667107341, -477755414 / 1098053517,
            -703635378 / 230739211, 5731566787 / 1027545527, 5232866602 / 850066563,
            -4093664535 / 808688257, 3962137247 / 1805957418, 65686358 / 487910083,
        ),
        (
            403863854 / 491063109, 0.0, 0.0, -5068492393 / 434740067, -411421997 / 543043805,
            652783627 / 914296604, 11173962825 / 925320556, -13158990841 / 6184727034,
            3936647629 / 1978049680, -160528059 / 685178525, 248638103 / 1413531060, 0.0,
        ),
        _DOPRI8_B[:-1],
    ),
    b=_DOPRI8_B,
    error=_less(
        _DOPRI8_B,
        (
            13451932 / 455176623, 0.0, 0.0, 0.0, 0.0, -808719846 / 976000145,
            1757004468 / 5645159321, 656045339 / 265891186, -3867574721 / 1518517206,
            465885868 / 322736535, 53011238 / 667516719, 2 / 45, 0.0, 0.0,
        ),
    ),
)
# fmt: on

TABLEAUS: dict[str, ButcherTableau] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "rk4": RK4,
    "rk4_38": RK4_38,
    "bosh3": BOSH3,
    "dopri5": DOPRI5,
    "tsit5": TSIT5,
    "dopri8": DOPRI8,
}
