"""SciPy's multistep codes: the Adams family that the paper used, forward and for the adjoint.

The paper's solver was an implicit Adams code in Fortran behind SciPy. VODE is its successor in the
same family; LSODA switches between Adams and BDF, and allocates the square of the state. Both keep
the state in float64 on the host and know one error norm: the weighted RMS of the whole vector, the
weights rtol·|y| + atol taken at the start of the step. There is no graph, so the one gradient is
the continuous adjoint, whose backward solve is another solve of the whole vector [z, a, g].

Source: Brown, Byrne, Hindmarsh (1989), "VODE: a variable-coefficient ODE solver"; Petzold (1983)
for LSODA; Chen et al. (2018), Section 3, for their use.
"""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverFailed, SolverSettings, SolveStats
from lightning_modules.solvers.failures import no_step, step_limit
from lightning_modules.solvers.registry import Backend, Norm, StepControl, TensorField

_INTEGRATORS: dict[str, dict[str, Any]] = {
    "vode_adams": {"name": "vode", "method": "adams"},
    "lsoda": {"name": "lsoda"},
}
LARGEST_LSODA = 1_000  # numbers of the state; work memory grows with the square
_TOO_MANY_STEPS = -1  # istate of both codes
# Places in the integer work memory of both codes; LSODA does not count rejected steps.
_STEP_LIMIT, _STEPS, _ERROR_TEST_FAILURES = 5, 10, 21
_STEP_SIZE = 11  # in the real work memory: the step to be tried next

_running = threading.local()  # `here`: whether a solve is running in this thread
_codes = threading.Lock()


def methods() -> Mapping[str, StepControl]:
    """Return the offered codes; both choose their steps and their order."""
    return dict.fromkeys(_INTEGRATORS, "adaptive")


@torch.no_grad()
def solve(
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    """Solve with SciPy; arguments and result as in ``registry.Solve``, without a graph.

    ``norm`` is not read. The field is called in the dtype and on the device of ``y0``. Output
    times are interpolated, as these codes do. Between two of them the codes themselves hold
    accepted steps to ``max_steps``; over all, VODE's rejected ones count too. LSODA does not tell
    its rejected ones, so they count as none.
    """
    if settings.method == "lsoda" and y0.numel() > LARGEST_LSODA:
        raise ValueError(
            f"lsoda was given a state of {y0.numel():,} numbers; it allocates their square and is "
            f"offered up to {LARGEST_LSODA:,}. Choose method='vode_adams', which allocates 16 n."
        )
    with _alone():
        return _solve(field, y0, times, settings, stats)


def _solve(
    field: TensorField, y0: Tensor, times: Tensor, settings: SolverSettings, stats: SolveStats
) -> Tensor:
    host = _Host(field, y0)
    integrator = _integrator(host, y0, times, settings)
    before = (stats.steps_accepted, stats.steps_rejected)
    found = [y0]
    for time in times.double().tolist()[1:]:
        integrator._integrator.iwork[_STEP_LIMIT] = max(settings.max_steps - stats.steps, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # failures become SolverFailed below
            vector = integrator.integrate(time)
        host.raise_what_the_field_raised()
        _count(integrator, settings.method, stats, before)
        if not integrator.successful():
            raise _failure(integrator, host, settings, stats, float(times[-1]))
        if stats.steps > settings.max_steps:
            size = float(integrator._integrator.rwork[_STEP_SIZE])
            raise step_limit(time, float(times[-1]), size, settings, stats)
        found.append(host.tensor(vector))
    return torch.stack(found)


@contextmanager
def _alone() -> Iterator[None]:
    """Let one thread in at a time, since these codes keep global state.

    Raises:
        RuntimeError: If this is a solve within a field that SciPy is solving.
    """
    if getattr(_running, "here", False):
        raise RuntimeError(
            "SciPy's codes cannot solve within a field that they are solving. Give the inner "
            "solve another backend, such as 'native'."
        )
    _running.here = True
    try:
        with _codes:
            yield
    finally:
        _running.here = False


class _Host:
    """The field over NumPy vectors; an exception waits until the library has returned."""

    def __init__(self, field: TensorField, y0: Tensor) -> None:
        self.field = field
        self._like = y0
        self._raised: BaseException | None = None

    def __call__(self, t: float, vector: Any) -> Any:
        if self._raised is None:
            try:
                time = torch.full((), t, dtype=self._like.dtype, device=self._like.device)
                dy = self.field(time, self.tensor(vector))
                return dy.detach().reshape(-1).double().cpu().numpy()
            except BaseException as error:  # through C it would lose its type or its message
                self._raised = error
        return vector * float("nan")  # the library soon gives up

    def tensor(self, vector: Any) -> Tensor:
        """Return a copy of a vector of the library as the state is shaped."""
        copied = torch.tensor(vector, dtype=self._like.dtype, device=self._like.device)
        return copied.view(self._like.shape)

    def raise_what_the_field_raised(self) -> None:
        """Raise what the field raised while the library called it."""
        if self._raised is not None:
            raise self._raised


def _integrator(host: _Host, y0: Tensor, times: Tensor, settings: SolverSettings) -> Any:
    from scipy.integrate import ode

    options = {**_INTEGRATORS[settings.method], "rtol": settings.rtol, "atol": settings.atol}
    start = y0.reshape(-1).double().cpu().numpy()
    return ode(host).set_integrator(**options).set_initial_value(start, float(times[0]))


def _count(integrator: Any, method: str, stats: SolveStats, before: tuple[int, int]) -> None:
    """Read the library's counters, which run over all intervals of this solve."""
    counters = integrator._integrator.iwork
    rejected = int(counters[_ERROR_TEST_FAILURES]) if method == "vode_adams" else 0
    stats.steps_accepted = before[0] + int(counters[_STEPS])
    stats.steps_rejected = before[1] + rejected


def _failure(
    integrator: Any, host: _Host, settings: SolverSettings, stats: SolveStats, end: float
) -> SolverFailed:
    t, y = float(integrator.t), host.tensor(integrator.y)
    size = float(integrator._integrator.rwork[_STEP_SIZE])
    if integrator.get_return_code() == _TOO_MANY_STEPS:
        return step_limit(t, end, size, settings, stats)
    return no_step(host.field, t, y, size, end, settings, stats, finite=True)


BACKEND = Backend(
    name="scipy",
    solve=solve,
    methods=methods,
    gradients=("adjoint",),
    norm="rms",
    absent={
        "adams": "SciPy's variable-order Adams code is named vode_adams.",
        "vode": "SciPy's VODE is offered with its Adams methods, named vode_adams.",
    },
)
