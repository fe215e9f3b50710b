"""Back through the accepted steps of an explicit Runge-Kutta method, by hand.

With λ = dL/dy⁺ and g_i = (∂f/∂Y_i)ᵀ κ_i for a step

    Y_i = y + h Σ_j a_ij k_j,    k_i = f(t + c_i h, Y_i),    y⁺ = y + h Σ_i b_i k_i

the cotangent of a slope is κ_i = h (b_i λ + Σ_{j>i} a_ji g_j), and dL/dy = λ + Σ_i g_i. Step sizes
are constants. Where the g_i come from, from a replay or from a tape, is up to a `Pullbacks`;
another `Sweep` may go through a whole step at once.

Source: Hairer, Lubich, Wanner, "Geometric Numerical Integration", VI.9.3, for the adjoint of a
Runge-Kutta step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lightning_modules.solvers.combining import sums
from lightning_modules.solvers.integration import Accepted
from lightning_modules.solvers.stepping import Time, number
from lightning_modules.solvers.tableaus import ButcherTableau


@dataclass(frozen=True)
class Taken:
    """An accepted step without its states.

    Args:
        t: Time at its start.
        dt: Its size.
        ends: How many output times are its end: 0 or 1.
        weights: Weights of the slopes for the output times that were interpolated in it,
            ``(outputs, stages)``; None if there were none.
    """

    t: Time
    dt: Time
    ends: int
    weights: Tensor | None

    @staticmethod
    def of(step: Accepted, tableau: ButcherTableau) -> "Taken":
        """Keep of a step what its backward pass needs."""
        inside = [number(x) for x in step.fractions if x is not None]
        weights = tableau.weights_at_all(inside).to(step.y0) if inside else None
        return Taken(number(step.t), number(step.dt), len(step.fractions) - len(inside), weights)

    @property
    def outputs(self) -> int:
        """The number of output times in it."""
        return self.ends + self.inside

    @property
    def inside(self) -> int:
        """The number of output times that were interpolated in it."""
        return 0 if self.weights is None else len(self.weights)


def stages_back(tableau: ButcherTableau, step: Taken, *, last: bool) -> int:
    """Return how many stages of a step go back: all, or all but the last of a FSAL method.

    That one is the first of the next step and goes back there. After the last step there is no
    next: there it goes back where outputs in the step are made of its slope.

    Args:
        tableau: The method.
        step: The step.
        last: Whether it is the last one.
    """
    return tableau.stages - (tableau.fsal and not (last and step.inside))


def unstacked(starts: Sequence[Tensor], numbers: int) -> list[Tensor]:
    """Return the states at the starts of all steps, ``(numbers,)`` each.

    Args:
        starts: These states, some in each, ``(steps, numbers)``, or one, ``(numbers,)``.
        numbers: How many numbers a state has.
    """
    return [row for start in starts for row in start.view(-1, numbers)]


class Pullbacks(Protocol):
    """The vector-Jacobian products of the stages, step after step from the last to the first."""

    def begin(self, n: int, step: Taken, count: int) -> None:
        """Get ready for the first ``count`` stages of step ``n``."""
        ...

    def pull(self, i: int, kappa: Tensor) -> Tensor | None:
        """Return g_i, shaped like the state, for the cotangent of slope i, ``(numbers,)``.

        Called from the last stage to the first; what reaches the parameters is added up elsewhere.
        None where the slope does not depend on the state.
        """
        ...


class Sweep(ABC):
    """One backward pass over the accepted steps.

    ``_at_end`` is the cotangent of the state at the end of a step, and then of that at its start.

    Args:
        tableau: The method.
        at_end: Memory for that, ``(numbers,)``, zeros.
    """

    def __init__(self, tableau: ButcherTableau, at_end: Tensor) -> None:
        self._tableau, self._at_end = tableau, at_end

    def run(self, steps: Sequence[Taken], grad_ys: Tensor) -> Tensor:
        """Go back through all steps.

        Args:
            steps: The accepted steps in the order they were taken.
            grad_ys: Gradient of the loss by the states at the output times, ``(time, numbers)``.

        Returns:
            Its gradient by the initial state, ``(numbers,)``.
        """
        grad_ys0, *after = grad_ys.split([1, *(step.outputs for step in steps)])
        shares = self._shares(steps[-1], after[-1]) if steps else None
        for n in range(len(steps) - 1, -1, -1):
            before = self._shares(steps[n - 1], after[n - 1]) if n else None
            # The slope at the end of a step is the first of the next, where it is evaluated again.
            inherited = None if before is None else before[-1]
            self._back(n, steps[n], after[n], shares, inherited, last=n == len(steps) - 1)
            shares = before
        return self._at_end + grad_ys0[0]

    def _shares(self, step: Taken, grads: Tensor) -> Tensor | None:
        """Return what the interpolated outputs of a step pass to its slopes, (stages, numbers).

        The gradient of an output at the end itself comes last in ``grads`` and has no such share.
        """
        if step.weights is None:
            return None
        return sums(step.weights.t(), grads[: step.inside]).mul_(step.dt)

    def _back(
        self,
        n: int,
        step: Taken,
        grads: Tensor,
        shares: Tensor | None,
        inherited: Tensor | None,
        *,
        last: bool,
    ) -> None:
        at_end = self._at_end
        inside, ends = grads[: step.inside], grads[step.inside :]
        for grad in ends:
            at_end.add_(grad)
        count = stages_back(self._tableau, step, last=last)
        self._through(n, step, count, shares, inherited)
        if step.inside:
            at_end.add_(inside.sum(dim=0))

    @abstractmethod
    def _through(
        self,
        n: int,
        step: Taken,
        count: int,
        shares: Tensor | None,
        inherited: Tensor | None,
    ) -> None:
        """Go back through the first ``count`` stages of a step; ``_at_end`` ends at its start.

        Args:
            n: Number of the step.
            step: The step.
            count: How many; see `stages_back`.
            shares: Cotangents that its slopes have from outputs in it, ``(stages, numbers)``.
            inherited: Cotangent that its first slope has from outputs before it, ``(numbers,)``.
        """


class StagedSweep(Sweep):
    """Back through stage after stage.

    Row i of ``_g`` is g_i, and the last row is the cotangent of the state at the end of a step:
    for a method whose last stage is evaluated there (FSAL) that is the input of this stage, whose
    own g is added to what the row holds already.

    Args:
        pullbacks: Gives g_i.
        tableau: The method.
        y0: Gives shape, dtype and device of the state.
    """

    def __init__(self, pullbacks: Pullbacks, tableau: ButcherTableau, y0: Tensor) -> None:
        rows = tableau.inputs
        self._g = y0.new_zeros(len(rows), y0.numel())
        super().__init__(tableau, self._g[-1])
        self._pullbacks, self._shape = pullbacks, y0.shape
        self._below = [self._g[i + 1 :].t() for i in range(len(rows))]
        self._weights = [
            torch.tensor([row[i] for row in rows[i + 1 :]], dtype=y0.dtype, device=y0.device)
            for i in range(len(rows))
        ]
        self._kappa = y0.new_empty(y0.numel())

    def _through(
        self,
        n: int,
        step: Taken,
        count: int,
        shares: Tensor | None,
        inherited: Tensor | None,
    ) -> None:
        self._pullbacks.begin(n, step, count)
        for i in range(count - 1, -1, -1):
            kappa = self._cotangent(i, step.dt)
            if shares is not None:
                kappa.add_(shares[i])
            if inherited is not None and i == 0:
                kappa.add_(inherited)
            self._keep(i, self._pullbacks.pull(i, kappa))
        self._at_end.copy_(self._g.sum(dim=0))

    def _cotangent(self, i: int, dt: Time) -> Tensor:
        kappa, weights = self._kappa, self._weights[i]
        if not len(weights):
            return kappa.zero_()
        if isinstance(dt, Tensor):
            return torch.mv(self._below[i], weights, out=kappa).mul_(dt)
        return torch.addmv(kappa, self._below[i], weights, beta=0, alpha=dt, out=kappa)

    def _keep(self, i: int, pulled: Tensor | None) -> None:
        """Put g_i into its row."""
        row = self._g[i]
        if i == len(self._g) - 1:
            row.add_(0.0 if pulled is None else pulled.reshape(-1))
        elif pulled is None:
            row.zero_()
        else:
            row.view(self._shape).copy_(pulled)
