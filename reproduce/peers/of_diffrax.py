"""diffrax, compiled by JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reproduce.memory import MIB
from reproduce.peers.base import MAX_STEPS, Array, Counts, Peer, Skip
from reproduce.problems.twins import Twin, twin

if TYPE_CHECKING:
    from reproduce.problems import Problem


class Diffrax(Peer):
    """Everything of a step in one compiled function, whose tolerance is an argument.

    Args:
        problem: The problem; its weights are copied.
        gradient: ``recursive`` (its default adjoint) or ``backsolve``, the whole batch as one
            state; ``each`` maps over samples, which then have steps of their own.

    Raises:
        Skip: If diffrax is not installed, or the problem is not written for JAX.
    """

    def __init__(self, problem: Problem, gradient: str) -> None:
        try:
            import diffrax
            import jax
        except ImportError as error:
            raise Skip(f"diffrax is not there ({error}). pip install diffrax") from error
        found = twin(problem)
        if found is None:
            raise Skip("the field is written for torch alone: it has no jax_field(t, y, weights)")
        if gradient == "each" and not problem.each:
            raise Skip("the field takes one time for the whole batch")
        _refuse_without_device(jax, problem.times.device.type)
        jax.config.update("jax_enable_x64", problem.times.element_size() == 8)
        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU
        self._jax, self._diffrax = jax, diffrax
        self._twin: Twin = found
        self._kind, self._updates = gradient, problem.updates
        copied = {name: jax.numpy.asarray(t.detach().cpu().numpy()) for name, t in _all(problem)}
        names = [name for name, _ in problem.named_parameters()]
        self._weights = {name: copied.pop(name) for name in names}
        self._constants, self._names = copied, names
        self._times = jax.numpy.asarray(problem.times.cpu().numpy())
        self._moments = tuple(
            {name: jax.numpy.zeros_like(w) for name, w in self._weights.items()} for _ in range(2)
        )
        self._y0, _ = jax.jit(self._start)(self._weights)
        self._compiled: dict[str, Any] = {}

    def forward(self, tolerance: float) -> Any:
        """Solve without a gradient."""
        return self._call("forward", self._solve, tolerance, self._y0, self._weights)

    def step(self, tolerance: float) -> Any:
        """Solve, take loss and gradient, and update where the problem is a training."""
        return self._call("step", self._train, tolerance, 0.0, self._weights, self._moments)

    def evaluate(self, times: int) -> Any:
        """Evaluate the field so often within one compiled loop."""
        return self._call("evaluate", self._field_alone, times, self._y0, self._weights)

    def states(self, tolerance: float) -> Array:
        """Return the states at the output times."""
        import numpy as np

        ys, failed, _ = self.forward(tolerance)
        if bool(np.any(failed)):
            raise RuntimeError("diffrax did not reach the end within its steps.")
        return np.asarray(ys, dtype=np.float64)

    def gradient(self, tolerance: float) -> Array:
        """Return the gradient by all parameters in torch's order."""
        import numpy as np

        gradients = self.step(tolerance)[1]
        parts = [np.asarray(gradients[name], dtype=np.float64).ravel() for name in self._names]
        found: Array = np.concatenate(parts)
        return found

    def counts(self, tolerance: float) -> Counts:
        """Return steps as the solution tells them; evaluations follow from the method."""
        import numpy as np

        _, _, stats = self.forward(tolerance)
        steps, rejected = (np.atleast_1d(np.asarray(one)) for one in stats)
        most = int(steps.argmax())
        return Counts(float(steps[most]), float(rejected[most]), float(2 + 6 * steps[most]), None)

    def memory(self, tolerance: float) -> float:
        """Return what the compiler plans for temporaries and results of a step, in MiB."""
        arguments = (tolerance, 0.0, self._weights, self._moments)
        plan = self._jax.jit(self._train).lower(*arguments).compile().memory_analysis()
        assert plan is not None
        return float(plan.temp_size_in_bytes + plan.output_size_in_bytes) / MIB

    def _call(self, name: str, function: Any, *arguments: Any) -> Any:
        # As a user calls it. What lower().compile() returns is called through Python where the
        # program has host callbacks, as it has with output times: a third more of a small solve.
        if name not in self._compiled:
            self._compiled[name] = self._jax.jit(function)
        return self._jax.block_until_ready(self._compiled[name](*arguments))

    def _start(self, weights: Any) -> Any:
        return self._twin.start({**self._constants, **weights})

    def _field(self, t: Any, y: Any, weights: Any) -> Any:
        return self._twin.field(t, y, {**self._constants, **weights})

    def _solve(self, tolerance: Any, y0: Any, weights: Any) -> Any:
        """Return states, whether any solve failed, and steps taken and rejected."""
        jnp = self._jax.numpy
        # The backward equation has an adjoint for every number among these.
        inside = {name: w for name, w in weights.items() if name.startswith("field.")}

        def one(y: Any) -> Any:
            return self._solve_one(tolerance, y, inside)

        if self._kind == "each":
            ys, failed, stats = self._jax.vmap(one, out_axes=(1, 0, 0))(y0)
            return ys, jnp.any(failed), stats
        return one(y0)

    def _solve_one(self, tolerance: Any, y0: Any, inside: Any) -> Any:
        diffrax, jnp = self._diffrax, self._jax.numpy
        several = len(self._times) > 2
        tolerance = jnp.asarray(tolerance, y0.dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(self._field),
            diffrax.Dopri5(),
            t0=self._times[0],
            t1=self._times[-1],
            dt0=None,
            y0=y0,
            args=inside,
            saveat=diffrax.SaveAt(ts=self._times) if several else diffrax.SaveAt(t1=True),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            adjoint=self._adjoint(),
            max_steps=MAX_STEPS,
            throw=False,
        )
        ys = solution.ys if several else jnp.concatenate([y0[None], solution.ys])
        failed = solution.result != diffrax.RESULTS.successful
        stats = (solution.stats["num_steps"], solution.stats["num_rejected_steps"])
        return ys, failed, stats

    def _adjoint(self) -> Any:
        if self._kind == "backsolve":
            return self._diffrax.BacksolveAdjoint()
        return self._diffrax.RecursiveCheckpointAdjoint()

    def _train(self, tolerance: Any, rate: Any, weights: Any, moments: Any) -> Any:
        def loss(weights: Any) -> Any:
            y0, left = self._start(weights)
            ys = self._solve(tolerance, y0, weights)[0]
            return self._twin.loss(ys, left, {**self._constants, **weights})

        value, gradients = self._jax.value_and_grad(loss)(weights)
        if not self._updates:
            return value, gradients
        return value, gradients, self._adam(rate, weights, gradients, moments)

    def _adam(self, rate: Any, weights: Any, gradients: Any, moments: Any) -> Any:
        jnp, map_ = self._jax.numpy, self._jax.tree.map
        first = map_(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
        second = map_(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradients)
        moved = map_(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, first, second)
        return moved, first, second

    def _field_alone(self, times: Any, y0: Any, weights: Any) -> Any:
        def again(_: Any, y: Any) -> Any:
            return y + 1e-12 * self._field(self._times[0], y, weights)

        return self._jax.lax.fori_loop(0, times, again, y0)


def _refuse_without_device(jax: Any, kind: str) -> None:
    """Raise `Skip` where JAX does not compute on what the problem is on."""
    try:
        there = {device.platform for device in jax.devices()}
    except (RuntimeError, AssertionError) as error:  # the second without a driver
        raise Skip(f"JAX has no {kind} here ({error})") from error
    if {"cuda": "gpu"}.get(kind, kind) not in there:
        raise Skip(f"JAX has no {kind} here. pip install 'jax[cuda13]', or [cuda12] as torch has.")


def _all(problem: Problem) -> list[tuple[str, Any]]:
    return [*problem.named_parameters(), *problem.named_buffers()]
