"""Algorithm 1 in a hundred lines has every gradient right, to the order of its method (the deck).

`reproduce/algorithm_1.py` is the paper's Algorithm 1, completed by the times as in its Appendix C,
as the deck promises it: to be read, in about a hundred lines. Here its gradients are checked, in
float64, with Euler, midpoint and RK4 of 4 to 64 steps from one output time to the next.

Rows:

- `sine`: x' = θ e⁻ˣ sin t, θ = 1, from x(0) = 0 to t = 1, where x(1) = ln(2 - cos 1) is the loss.
- `cosine`: y' = θ e⁻ʸ cos t, θ = 1/2, alike; y(1) = ln((2 + sin 1)/2).
- `linear`: x' = x W with its log-density, ℓ' = -tr W; the loss is a sum over three times.
- `network`: a perceptron of three states and time, three times; no closed form, so its truth is
  back-propagation through dopri8 at 1e-13.

Metrics:

- `end`, `by_z0`, `by_theta`, `by_t0`, `by_t1`: state at the end and its derivatives by initial
  state, parameter, start and end, by RK4 of 64 steps; `log_density` of `linear`.
- `error_<gradient>_<method>_<steps>`: largest error of a gradient; `order_<gradient>_<method>`:
  rate at which it falls with the number of steps, fitted to 16, 32 and 64 of them; 1, 2 and 4 are
  those of Euler, midpoint and RK4.
- `from_suite`: largest difference from the suite's adjoint with the same methods and steps,
  relative to the gradient's largest number, over all of them. The start time is left out: the
  suite has it as -a·f at the start, Algorithm 1 as an integral, and both err by their order.
- `from_direct_<method>`: order of the difference from back-propagation through the same steps: the
  adjoint of a discrete solve is not the solve of the adjoint, but both have the same limit.

Deviations: none. The deck's slide on the reverse mode says "JVP"; what it computes, and what this
does, is a vector-Jacobian product.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from reproduce.closed_forms import Problem

    Gradients = dict[str, Tensor]
    Solve = Callable[[Tensor, Tensor], Tensor]

PROTOCOL = 1
TRAINS = False
METHODS = {"euler": ":", "midpoint": "--", "rk4": "-"}  # and their lines in the figure
STEPS = (4, 8, 16, 32, 64)
FITTED = 3  # the last ones, where higher orders have no share in the error any more
GRADIENTS = {
    "z0": "by the initial state",
    "theta": "by the parameter",
    "t0": "by the start time",
    "t1": "by the end time",
}
DRAWN = "cosine"
PROFILES = {name: Profile({}, 1, 0.2) for name in ("smoke", "quick", "short", "paper")}


def run(ctx: Context) -> list[Record]:
    """Check every problem; its rows are written at once."""
    from reproduce import closed_forms
    from reproduce.progress import track

    records: list[Record] = []
    settings = {"steps": STEPS, "methods": tuple(METHODS), "device": "cpu"}
    budget = f"{STEPS[0]} to {STEPS[-1]} steps"
    for problem in track(closed_forms.problems(), "problems"):
        values = {problem.name: {**_ends(problem), **_checks(problem)}}
        records += ctx.keep(
            "reverse_mode", PROTOCOL, values, settings, budget=budget, unit=lambda metric: ""
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per metric, one column per problem; errors are in the figure and in the CSV."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if not r.metric.startswith("error_")])
    return frame.pivot_table(index="metric", columns="row", values="value", sort=False)


def plot(records: list[Record]) -> "Figure":
    """Error of every gradient of one problem against steps."""
    from reproduce import plotting

    values = {r.metric: r.value for r in records if r.row == DRAWN}
    with plotting.style():
        figure, axes = plotting.slide(1, 4, sharey=True)
        for panel, (gradient, words) in zip(axes, GRADIENTS.items(), strict=True):
            for method, line in METHODS.items():
                look = plotting.method_style(method)
                look["label"] += f": order {values[f'order_{gradient}_{method}']:.2f}"
                errors = [values[f"error_{gradient}_{method}_{steps}"] for steps in STEPS]
                panel.plot(STEPS, errors, line, **look)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(STEPS, [str(n) for n in STEPS])
            panel.set_title(words, pad=76)
            panel.legend(loc="lower left", bbox_to_anchor=(-0.06, 1.0))
            panel.set_xlabel("steps")
        axes[0].set_ylabel("error of the gradient")
        figure.suptitle(
            "Algorithm 1 on y′ = ½ e⁻ʸ cos t: gradients of y(1) against the closed form",
            fontsize=16,
        )
    return figure


def _solve(problem: "Problem", method: str, steps: int) -> "Solve":
    """Return Algorithm 1 with a method and that many steps from one time to the next."""
    from reproduce import algorithm_1

    step: algorithm_1.Step = getattr(algorithm_1, method)
    return lambda z0, times: algorithm_1.odeint(problem.field, z0, times, steps, step)


def _suite(problem: "Problem", method: str, steps: int, gradient: str) -> "Solve":
    """Return the suite's solve with the same steps."""
    from lightning_modules.solvers import SolverSettings, odeint

    size = float(problem.times[1] - problem.times[0]) / steps
    settings = SolverSettings("native", method, step_size=size, gradient=gradient)  # type: ignore[arg-type]
    return lambda z0, times: odeint(problem.field, z0, times, settings).ys


def _truth(problem: "Problem") -> "Gradients":
    """Return the gradients from the closed form, or from a solve far more exact than any here."""
    from reproduce import references

    if problem.solution is not None:
        return problem.exact()
    return problem.gradients(lambda z0, times: references.tight(problem.field, z0, times, 1e-13))


def _ends(problem: "Problem") -> dict[str, float]:
    """Return the values that are known in closed form, as RK4 has them."""
    if problem.solution is None:
        return {}
    solve = _solve(problem, "rk4", STEPS[-1])
    end = solve(problem.z0, problem.times)[-1].detach()
    if problem.name == "linear":
        return {"log_density": float(end[-1])}
    gradients = problem.gradients(solve)
    return {"end": float(end)} | {f"by_{name}": float(gradients[name]) for name in GRADIENTS}


def _found(problem: "Problem", method: str) -> "list[Gradients]":
    """Return the gradients of Algorithm 1 for every number of steps."""
    return [problem.gradients(_solve(problem, method, steps)) for steps in STEPS]


def _errors(found: "list[Gradients]", truth: "Gradients") -> dict[str, list[float]]:
    """Return the largest error of each gradient for every number of steps."""
    return {
        name: [float((one[name] - exact).abs().max()) for one in found]
        for name, exact in truth.items()
    }


def _checks(problem: "Problem") -> dict[str, float]:
    """Return errors, orders of convergence, and how far the suite's gradients are."""
    from reproduce.references import relative

    truth, farthest = _truth(problem), 0.0
    without_start = [name for name in GRADIENTS if name != "t0"]
    values: dict[str, float] = {}
    for method in METHODS:
        found = _found(problem, method)
        for name, errors in _errors(found, truth).items():
            named = (f"error_{name}_{method}_{steps}" for steps in STEPS)
            values |= dict(zip(named, errors, strict=True))
            values[f"order_{name}_{method}"] = _order(errors)
        apart = []
        for steps, ours in zip(STEPS, found, strict=True):
            adjoint = problem.gradients(_suite(problem, method, steps, "adjoint"))
            direct = problem.gradients(_suite(problem, method, steps, "direct"))
            farthest = max(farthest, *(relative(ours[n], adjoint[n]) for n in without_start))
            apart.append(max(relative(ours[n], direct[n]) for n in without_start))
        values[f"from_direct_{method}"] = _order(apart)
    return values | {"from_suite": farthest}


def _order(errors: list[float]) -> float:
    from reproduce import statistics

    return statistics.convergence_order(STEPS[-FITTED:], errors[-FITTED:]).value
