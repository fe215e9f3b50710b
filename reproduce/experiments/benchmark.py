"""Which library when: time of solves and training steps at equal error, ours beside four others.

Rules, stated before the first number of this protocol; the last of them says what was known then:

- Method: dopri5 (Dormand and Prince, 1980) everywhere, relative and absolute tolerance equal, an
  integral controller with safety 0.9 and factors from 0.2 to 10 as every one of these libraries
  has it by default. What tolerances mean still differs, so steps are stated and *errors* are made
  equal: those of the states for a solve, those of the gradient by all parameters for a step, root
  mean square over that of the reference. The reference is dopri8 in float64 at 1e-12 (odenet,
  whose field has kinks: 1e-9), which must agree with SciPy's DOP853 and its differences, or
  nothing is measured.
- `step` is loss, gradient and, where the problem is a training, Adam's update at rate 0, so that
  weights and with them steps stay; `forward` is the solve alone, without a graph.
- The same weights, start, output times, dtype (float64 for `linear` and `van_der_pol`, float32
  for trainings) and number of threads, to which XLA's pool is held too.
- A process of its own for every alternative; rounds go through all of them in turn, beginning
  with another one each time, and only one works at any time. One round before is not timed. After
  `seconds` for a problem no further round begins, but there are six of each (`rounds`). A
  measurement repeats its call for at least `least` seconds and waits for the result.
- The first two calls, and with them compilation, are apart (`first_…_s`): diffrax and what is
  compiled for torch, ours at the second. Nothing that was compiled before is on the disk.
- Times are medians over rounds, `_spread` half the distance of the quartiles. Ratios are ours over
  theirs, at equal error in the same round, median and 95 % interval over rounds, times between
  tolerances interpolated in logarithms and none extrapolated. The error is that of ours at 1e-5,
  or the least that both reach. What stands for ours is fixed here (`OURS`), and not chosen by its
  time: compiled, but checkpoint for `odenet` and direct for `latent`, where compiling takes up to
  two minutes before a training begins and gained nothing in the rows of protocol 1; captured on a
  GPU; direct where that was not measured. Against a library stands the best of its alternatives.
- That interval is one session's: of these processes, in these minutes. A mark is judged by
  `step_ratio_sessions`: ours against the library's best in five sessions of six rounds, each of
  new processes; mean and 95 % t interval over sessions of the logarithms of their medians.
- Sizes are at equal tolerance, not at equal error: nothing tells their errors.
- What is not the solver's: the recurrent network in `latent` is ours for all libraries for torch,
  with its gradient written out, and a plain scan for diffrax; `ours_direct` knows the parts of the
  fields of `spiral`, `cnf` and `latent`, and never calls them. `ours_unfactored` does, as others.
- XLA is as it comes: vectors of 256 bits. With 512, where a CPU has them
  (`--xla_cpu_prefer_vector_width=512`), a reader measured, once and beside other work, 0.73 of
  diffrax's time for a solve of the flow and 0.8 for its step.
- What was known before: in protocol 1 direct stood for ours on `linear`, both `van_der_pol` and a
  field of your own, an order of magnitude slower than compiled, and protocol 2 changed that. In
  both, marks were judged by rounds of one session and measured several times while ours became
  faster: the flow took 1.21, 0.93, 0.90 (protocol 1), 0.92, 0.92 and 0.93 of diffrax's time, the
  spiral 1.38, 1.01, 0.90, then 0.93, 0.91 and 0.88. Protocol 3 came of a reader's complaint that
  diffrax was called through a slow path (small solves took it a third longer), that XLA's own
  convolution is slow, and that nothing for torch was compiled but ours.
- Since its first rows: one tolerance may be luck, so ratios at the errors of ours at the others
  are told beside it (`step_ratio_1e-4`), by the same rule and with its error
  (`step_ratio_error_1e-4`), without an interval. At first a way that missed such an error by a
  hair did not count there. On the spiral at 1e-5 diffrax, which begins with another step and
  shortens the last one, where ours goes beyond the end and interpolates as torchdiffeq does,
  rejects a step less and is four times nearer. No mark is judged by them.
- `loop_ms`: (forward time - evaluations times one evaluation) / steps. `memory_mib`: peak of live
  tensors in a step; for diffrax, what its compiler plans. Nobody can tell that of what is compiled
  for torch or captured, nor the loop of ours or torchode compiled or of ours direct with parts,
  whose evaluations by themselves are others. On a GPU one evaluation of ours captured is one of
  many in a graph, as in its solve.
- What bounds ours compiled: `compiled_share`, the part of a step within compiled functions, and
  `bare_share`, that of a step whose solve and its way back cost nothing (loss, autograd, update).
  The rest is Python around the solve.

Alternatives: `ours` with direct, checkpoint and adjoint gradients, direct without the parts of a
field (`unfactored`), with checkpoint compiled (CPU), captured as CUDA graphs, and captured with
products in TF32 (`tf32`; nobody else has it on); `torchdiffeq` and `torchdyn`, direct and adjoint,
torchdiffeq also with the field by `torch.compile` (`compiled`); `torchode` with the batch as one
sample, direct and adjoint, the whole solver by `torch.compile`, as its documentation has it, or
`each` sample by itself; `diffrax` with jit, its recursive checkpointing (default)
and its backsolve adjoint, or `each` sample by itself (vmap). A library that is not installed or
cannot solve a problem is a skipped row with the reason; one that fails, is not ready in three
minutes, or gets not one digit right, is a failed row.

Profile `short` is for CPUs and `paper` for GPUs; the others are for both.

Problems: `linear` (pairs that turn and decay), `van_der_pol` (μ = 1) and `van_der_pol_stiff`
(μ = 30), 256 samples; `spiral` (20 windows of 10 points, the cubic spiral's training step), `cnf`
(512 points, 64 units, maximum likelihood), `latent` (1,000 series of 100 points, recognition and
decoder included), `odenet` (the field of Table 1 on feature maps of 8 images; 128 under `paper`).
Fields that are drawn at random are scaled to take about the steps of trained ones. Rows such as
`linear_4096x2` are sizes, at 1e-5 and without errors.

`--profile short --only cnf,odenet_1` measures these problems and sizes of the profile alone, also
problems that it leaves out. Their rows take the place of all that there were of them; those of the
others stay, with their provenance, if they are of this protocol and device, and tables and figures
show all. Rows of `--set data.alternatives=ours_direct,diffrax_recursive`, which chooses too, say
so and stand apart.

A field of your own: `--set model.field.class_path=package.Field`, with `data.shape`, `data.span`,
`data.dtype` and `model.field.init_args`; it is the only problem then, and diffrax takes part if
its class has a static method `jax_field(t, y, weights)`.

Deviations: none, the paper measured no time.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from reproduce import benchmark_plans, benchmark_rows
from reproduce.benchmark_plans import PROBLEMS
from reproduce.benchmark_rows import MARK
from reproduce.contest import FEWEST
from reproduce.context import Context, Profile
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from reproduce.contest import Plan

PROTOCOL = 3
TRAINS = False
SETTABLE = True
SELECTS = True
# What stands for ours: not compiled where a training would wait for that and gain nothing.
OURS = {"odenet": "ours_checkpoint", "latent": "ours_direct"}
OURS_ELSEWHERE = "ours_compiled"
OURS_ON_GPU = "ours_captured"
OURS_LACKING = "ours_direct"  # where what stands for ours was not measured

_SMALL = {"linear": {"batch": 8}, "spiral": {"batch": 4}}
_FEW_SIZES = {"linear": ([1, 2], [1, 100_000])}
_SIZES = {
    "linear": ([1, 2], [64, 2], [4096, 2], [1, 1000], [64, 1000], [1, 1_000_000]),
    "cnf": ([1], [64], [4096]),
    "odenet": ([1], [128]),
}
_QUICK: dict[str, dict[str, Any]] = {
    "spiral": {},
    "cnf": {},
    "linear": {},
}
# One way of each library in smoke; in quick none that maps over samples, and one adjoint.
_SMOKE = ("ours_direct", "torchdiffeq_direct", "torchode_direct", "diffrax_recursive")
_FEW = (
    "ours_direct",
    "ours_checkpoint",
    "ours_compiled",
    "torchdiffeq_direct",
    "torchode_direct",
    "torchdyn_direct",
    "diffrax_recursive",
    "diffrax_backsolve",
)
PROFILES = {
    "smoke": Profile(
        {
            "problems": _SMALL,
            "sizes": {},
            "tolerances": [1e-3, 1e-5],
            "rounds": 2,
            "seconds": 60.0,
            "least": 0.0,
            "alternatives": _SMOKE,
        },
        seeds=1,
        minutes=1,
    ),
    "quick": Profile(
        {
            "problems": _QUICK,
            "sizes": _FEW_SIZES,
            "tolerances": [1e-3, 1e-4, 1e-5, 1e-6],
            "rounds": FEWEST,
            "seconds": 60.0,
            "least": 0.02,
            "alternatives": _FEW,
        },
        seeds=1,
        minutes=8,
    ),
    "short": Profile(
        {
            "problems": PROBLEMS,
            # A step of 128 images takes seconds on two cores; it is left to GPUs.
            "sizes": _SIZES | {"odenet": ([1],)},
            "tolerances": [1e-3, 1e-4, 1e-5, 1e-6, 1e-7],
            "rounds": 12,
            "seconds": 60.0,
            "least": 0.05,
            "sessions": 5,
        },
        seeds=1,
        minutes=90,
    ),
}
PROFILES["paper"] = Profile(
    PROFILES["short"].overrides
    | {"problems": PROBLEMS | {"odenet": {"batch": 128}}, "sizes": _SIZES},
    seeds=1,
    minutes=None,
)


def run(ctx: Context) -> list[Record]:
    """Measure problem after problem; the rows of each are written as soon as it is done."""
    from reproduce import contest
    from reproduce.progress import Display

    given = PROFILES[ctx.profile].overrides
    plans = benchmark_plans.plans(ctx, given)
    sessions = given.get("sessions", 0)
    _refuse_other_rows(ctx, plans)
    records: list[Record] = []
    with Display(len(plans)) as display:
        for label, plan in plans.items():
            line = display.start(label)
            with TemporaryDirectory(ignore_cleanup_errors=True) as cache:
                kept = replace(plan, cache=cache)
                outcome = contest.hold(kept)
                ours = _ours(label, outcome.told)
                values = benchmark_rows.values(label, ours, plan, outcome)
                values |= benchmark_rows.of_sessions(label, ours, kept, outcome, values, sessions)
            settings = {**vars(plan), "peers": _versions(), "sessions": sessions}
            del settings["cache"]
            name = {alternative: f"{label}_{alternative}" for alternative in plan.alternatives}
            failed = {name[a]: {"all": Failed("error", why)} for a, why in outcome.failed.items()}
            records += ctx.keep(
                "benchmark",
                PROTOCOL,
                {**values, **failed},
                settings,
                budget=_budget(plan),
                unit=_unit,
                skipped={name[a]: why for a, why in outcome.skipped.items()},
                instead_of=_rows_of(label),
            )
            line.end("ok", f"{len(outcome.failed)} failed" if outcome.failed else "", False)
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """Which library when: our time over that of each at equal error, below 1 if ours is faster."""
    import pandas as pd

    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    lines = {
        (label, work): _which(values, label, work)
        for label in _labels(records)
        for work in ("forward", "step")
    }
    return pd.DataFrame.from_dict(lines, orient="index").fillna("")


def _which(values: Mapping[tuple[str, str], float], label: str, work: str) -> dict[str, str]:
    """Return one line: who is fastest, our time, and it over every library's."""
    from reproduce.peers import LIBRARIES

    stood = f"{label}_{_stood(values, label, work)}"
    own = values.get((stood, f"{work}_ms_{benchmark_rows.key(MARK)}"))
    found = {name: values.get((f"{label}_vs_{name}", f"{work}_ratio")) for name in LIBRARIES}
    times = {"ours": 1.0} | {name: 1 / ratio for name, ratio in found.items() if ratio}
    cells = {name: f"{ratio:.2f}" for name, ratio in found.items() if ratio}
    fastest = min(times, key=times.__getitem__) if len(times) > 1 else ""
    # Libraries that cannot be told from ours share the first place with it.
    even = [
        name
        for name in found
        if values.get((f"{label}_vs_{name}", f"{work}_ratio_low"), math.inf) <= 1
        and values.get((f"{label}_vs_{name}", f"{work}_ratio_high"), 0.0) >= 1
    ]
    if even and fastest in ("ours", *even):
        fastest = " = ".join(["ours", *even])
    return {"fastest": fastest, "ours (ms)": "" if own is None else f"{own:.3g}", **cells}


def _stood(values: Mapping[tuple[str, str], float], label: str, work: str) -> str:
    """Return what stood for ours when the ratios were taken: it alone has none to itself."""
    ways = {row.removeprefix(f"{label}_") for row, metric in values if "_ms_" in metric}
    alone = [
        way
        for way in ways
        if way.startswith("ours_") and (f"{label}_{way}", f"{work}_ratio") not in values
    ]
    return alone[0] if len(alone) == 1 else _ours(label, ways)


def plot(records: list[Record]) -> "Figure":
    """Time of a training step over the error of its gradient, the best way of each library."""
    from reproduce import benchmark_panels

    labels, said = _labels(records), "error of the gradient"
    return benchmark_panels.over_error(records, labels, "step", "gradient_error", said)


def figures(records: list[Record], folder: "Path") -> "dict[str, Figure]":
    """Times of steps and solves over their errors, the best way of each library, and by size."""
    from reproduce import benchmark_panels

    labels, sizes = _labels(records), _sized(records)
    if not labels:  # with --only, sizes may be all that there is
        return {"": benchmark_panels.by_size(records, sizes)}
    said = "error of the states"
    drawn = {
        "": plot(records),
        "forward": benchmark_panels.over_error(records, labels, "forward", "error", said),
    }
    if sizes:
        drawn["sizes"] = benchmark_panels.by_size(records, sizes)
    return drawn


def _refuse_other_rows(ctx: Context, labels: Iterable[str]) -> None:
    """Refuse to measure some beside rows that they cannot be shown with."""
    from reproduce.jobs import BadSettings
    from reproduce.records import read

    path = ctx.csv("benchmark")
    if not ctx.only or not path.exists():
        return
    replaced = tuple(name for label in labels for name in _rows_of(label))
    others = {
        (r.protocol, r.device)
        for r in read(path)
        if r.overrides == ctx.overrides_text and not r.row.startswith(replaced)
    } - {(PROTOCOL, ctx.device_text)}
    if others:
        protocol, device = min(others)
        raise BadSettings(
            f"{path} has rows of protocol {protocol} on {device}; these would be of protocol "
            f"{PROTOCOL} on {ctx.device_text}. Leave --only out, or choose another --out."
        )


def _versions() -> dict[str, str]:
    """Return the version of every library that is there; another one is another measurement."""
    from importlib import metadata

    found = {}
    for name in ("torch", "torchdiffeq", "torchode", "torchdyn", "diffrax", "jax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _rows_of(label: str) -> tuple[str, ...]:
    """Return how all rows of a label begin, and those of no longer one, as linear_64x2, do."""
    from reproduce.peers import LIBRARIES

    return tuple(f"{label}_{name}_" for name in (*LIBRARIES, "vs"))


def _ours(label: str, measured: Collection[str]) -> str:
    """Return what stands for ours, of what was measured."""
    chosen = OURS.get(label.split("_")[0], OURS_ELSEWHERE)
    if OURS_ON_GPU in measured:
        return OURS_ON_GPU
    return chosen if chosen in measured else OURS_LACKING


def _budget(plan: "Plan") -> str:
    rounds = (
        f"{FEWEST} to {plan.rounds} rounds" if plan.rounds > FEWEST else f"{plan.rounds} rounds"
    )
    return f"{rounds} of {plan.least:g} s or a call, {plan.threads} threads"


def _unit(metric: str) -> str:
    if metric.startswith("nfe"):
        return "evaluations"
    if metric.startswith(("steps", "rejected")):
        return "steps"
    if "_ms" in metric or "_spread" in metric:
        return "ms"
    if metric == "sessions":
        return "sessions"
    units = {"first_forward_s": "s", "first_step_s": "s", "memory_mib": "MiB", "rounds": "rounds"}
    return units.get(metric, "")


def _labels(records: Sequence[Record]) -> list[str]:
    """Return the problems of the rows in their order, without those that are sizes."""
    found = _beginnings(records)
    return [label for label in (*PROBLEMS, "own") if label in found]


def _sized(records: Sequence[Record]) -> list[str]:
    """Return those that are sizes of a problem, such as ``linear_64x2``."""
    return sorted(_beginnings(records) - {*PROBLEMS, "own"})


def _beginnings(records: Sequence[Record]) -> set[str]:
    """Return what stands before the alternatives in the names of the rows."""
    from reproduce.peers import ALTERNATIVES

    return {
        row.removesuffix(f"_{alternative}")
        for row in {r.row for r in records}
        for alternative in ALTERNATIVES
        if row.endswith(f"_{alternative}")
    }
