"""The benchmark: rows from what was timed, tables and figures from rows, fields of one's own."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from contexts import context

from reproduce import benchmark_plans, benchmark_rows, contest, provenance, records
from reproduce.__main__ import main
from reproduce.benchmark_panels import over_error
from reproduce.claims import claims
from reproduce.contest import Outcome, Plan
from reproduce.context import Context
from reproduce.experiments import benchmark
from reproduce.jobs import BadSettings
from reproduce.peers import ALTERNATIVES
from reproduce.records import Record

TOLERANCES = (1e-3, 1e-4, 1e-5)
SPEED = {"ours_direct": 2.0, "ours_adjoint": 5.0, "torchdiffeq_direct": 4.0,
         "diffrax_recursive": 1.0, "diffrax_backsolve": 3.0}  # fmt: skip

NOISE = {"ours_d": (1.0, 1.1, 0.9), "ours_a": (0.9, 1.1, 1.0), "torchd": (1.1, 1.0, 0.9),
         "diffra": (1.0, 0.9, 1.1)}  # fmt: skip


def _outcome(plan: Plan) -> Outcome:
    """Everybody takes 10 evaluations more for each digit, and the time that SPEED says."""
    found = Outcome(skipped={"torchdyn_direct": "TorchDyn is not there"})
    found.failed["torchode_direct"] = "RuntimeError: underflow in dt"
    for name, speed in SPEED.items():
        told: list[dict[str, float]] = []
        for tolerance in plan.tolerances:
            steps = -2 * math.log10(tolerance)
            told.append({"steps": steps, "nfe_forward": 2 + 6 * steps})
            if plan.errors:
                told[-1] |= {"error": tolerance, "gradient_error": 10 * tolerance}
            for work, factor in (("forward", 1e-3), ("step", 3e-3)):
                times = [factor * speed * steps * noise for noise in NOISE[name[:6]]]
                found.seconds[name, work, tolerance] = times
        found.seconds[name, "field", plan.tolerances[0]] = [1e-5] * 3
        found.told[name] = {"first_forward_s": 0.1, "first_step_s": 2.0, "memory_mib": 1.0,
                            "fused": name == "ours_adjoint", "tolerances": told}  # fmt: skip
    return found


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    device_text = f"cpu, {torch.get_num_threads()} threads"  # as the command line has it
    return context(tmp_path, device_text=device_text)


@pytest.fixture
def rows(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    monkeypatch.setattr(contest, "hold", _outcome)
    given = {"problems": {"linear": {}, "cnf": {}}, "sizes": {"linear": ([1, 2], [8, 2])},
             "tolerances": TOLERANCES, "rounds": 3, "seconds": 9.0, "least": 0.0,
             "sessions": 3}  # fmt: skip
    profile = benchmark.Profile(given, seeds=1, minutes=None)
    monkeypatch.setitem(benchmark.PROFILES, "smoke", profile)
    return benchmark.run(ctx)


def test_rows_say_what_a_step_costs_beside_the_field(rows: list[Record]) -> None:
    found = {(r.row, r.metric): r.value for r in rows}
    assert found["cnf_ours_direct", "forward_ms_1e-5"] == pytest.approx(20)
    assert found["cnf_ours_direct", "step_ms_1e-5"] == pytest.approx(60)
    # 62 evaluations of 0.01 ms leave 19.38 ms for 10 steps.
    assert found["cnf_ours_direct", "loop_ms_1e-5"] == pytest.approx(1.938)
    assert ("cnf_ours_adjoint", "loop_ms_1e-5") not in found  # its evaluations are others
    assert found["cnf_diffrax_recursive", "first_step_s"] == 2.0
    assert "linear_8x2_ours_direct" in {r.row for r in rows}


def test_ratios_are_ours_over_theirs_and_the_best_of_a_library_stands_for_it(
    rows: list[Record],
) -> None:
    found = {(r.row, r.metric): r.value for r in rows}
    assert found["cnf_torchdiffeq_direct", "step_ratio"] == pytest.approx(0.5)
    assert found["cnf_diffrax_recursive", "step_ratio"] == pytest.approx(2.0)
    assert found["cnf_diffrax_backsolve", "step_ratio"] == pytest.approx(2 / 3)
    assert found["cnf_vs_diffrax", "step_ratio"] == pytest.approx(2.0)
    assert found["cnf_vs_diffrax", "step_ratio_error"] == pytest.approx(1e-4)
    assert ("cnf_ours_direct", "step_ratio") not in found
    assert found["cnf_ours_adjoint", "step_ratio"] == pytest.approx(0.4)
    others = {m for row, m in found if row == "cnf_vs_diffrax" and m.startswith("step_ratio_1e")}
    assert others == {f"step_ratio_{t:.0e}".replace("e-0", "e-") for t in TOLERANCES if t != 1e-5}
    assert all(found["cnf_vs_diffrax", other] == pytest.approx(2.0) for other in others)
    assert not [r for r in rows if r.row.startswith("linear_8x2") and "ratio" in r.metric]


def test_who_misses_the_error_of_ours_by_a_hair_is_compared_at_its_own() -> None:
    plan = Plan("cnf", {}, tuple(SPEED), (1e-4, 1e-5, 1e-6), 3, 9.0, 0.0, threads=2)
    outcome = _outcome(plan)
    outcome.told["diffrax_recursive"]["tolerances"][-1]["gradient_error"] *= 1.01
    best = benchmark_rows.values("cnf", "ours_direct", plan, outcome)["cnf_vs_diffrax"]
    assert best["step_ratio_1e-6"] == pytest.approx(2.0, rel=0.01)
    assert best["step_ratio_error_1e-6"] == pytest.approx(1.01e-5)


def test_a_mark_is_judged_by_the_medians_of_sessions_of_new_processes(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []

    def hold(plan: Plan) -> Outcome:
        found = _outcome(plan)
        again = len(plan.alternatives) == 2
        if again:
            slower = (1.0, 1.5, 2.0)[sum(len(p.alternatives) == 2 for p in asked)]
            for key, times in found.seconds.items():
                if key[0].startswith("ours"):
                    # A round that is disturbed moves no median.
                    found.seconds[key] = [slower * t for t in times[1:]] + [100.0]
        asked.append(plan)
        return found

    monkeypatch.setattr(contest, "hold", hold)
    given = {"problems": {"cnf": {}, "linear": {}}, "sizes": {}, "tolerances": TOLERANCES,
             "rounds": 3, "seconds": 9.0, "least": 0.0, "sessions": 3}  # fmt: skip
    profile = benchmark.Profile(given, seeds=1, minutes=None)
    monkeypatch.setitem(benchmark.PROFILES, "smoke", profile)
    rows = {(r.row, r.metric): r.value for r in benchmark.run(ctx)}
    first, *sessions, of_linear = asked
    assert {tuple(plan.alternatives) for plan in sessions} == {
        ("ours_direct", "diffrax_recursive")
    }
    assert {plan.cache for plan in sessions} == {first.cache} != {of_linear.cache}
    assert not any(plan.errors for plan in sessions)
    assert rows["cnf_vs_diffrax", "sessions"] == 3
    ratios = [rows["cnf_vs_diffrax", f"step_ratio_sessions{end}"] for end in ("_low", "", "_high")]
    assert ratios == sorted(ratios)
    assert 2 < ratios[1] < 2 * 2 * 1.3
    assert rows["cnf_vs_diffrax", "step_ratio"] == pytest.approx(2.0)
    assert ("linear_vs_diffrax", "sessions") not in rows


@pytest.mark.parametrize(
    ("label", "ours"),
    [
        ("spiral", "ours_compiled"),
        ("cnf_4096", "ours_compiled"),
        ("linear_1x2", "ours_compiled"),
        ("van_der_pol", "ours_compiled"),
        ("van_der_pol_stiff", "ours_compiled"),
        ("own", "ours_compiled"),
        ("latent", "ours_direct"),
        ("odenet", "ours_checkpoint"),
        ("odenet_1", "ours_checkpoint"),
    ],
)
def test_what_stands_for_ours_depends_on_the_problem_alone(label: str, ours: str) -> None:
    on_cpu = {"ours_direct", "ours_checkpoint", "ours_adjoint", "ours_compiled"}
    assert benchmark._ours(label, on_cpu) == ours
    assert benchmark._ours(label, on_cpu - {ours} | {"ours_direct"}) == "ours_direct"
    assert benchmark._ours(label, {*on_cpu, "ours_captured"}) == "ours_captured"


def test_what_cannot_be_measured_and_what_failed_are_rows_with_the_reason(
    rows: list[Record],
) -> None:
    lost = {r.row: (r.status, r.hint) for r in rows if r.status != "ok"}
    assert lost["cnf_torchdyn_direct"] == ("skipped", "TorchDyn is not there")
    assert lost["cnf_torchode_direct"] == ("error", "RuntimeError: underflow in dt")


def test_the_table_says_which_library_when(rows: list[Record]) -> None:
    table = benchmark.table(rows)
    assert list(table.index) == [("cnf", "forward"), ("cnf", "step"),
                                 ("linear", "forward"), ("linear", "step")]  # fmt: skip
    line = table.loc[("cnf", "step")]
    assert line["fastest"] == "diffrax"
    assert line["diffrax"] == "2.00"  # ours takes twice as long
    assert line["torchdiffeq"] == "0.50"
    alone = benchmark.table([r for r in rows if "ours_direct" in r.row])
    assert list(alone.columns) == ["fastest", "ours (ms)"]
    assert set(alone["fastest"]) == {""}


def _again(ctx: Context, *labels: str) -> list[Record]:
    """Measure only these, as the command line does, and return all rows."""
    told = ("reproduce", "benchmark", "--only", ",".join(labels))
    benchmark.run(replace(ctx, only=labels, command=told))
    return records.read(ctx.csv("benchmark"))


def test_what_alone_is_measured_again_takes_the_place_of_all_its_rows(
    rows: list[Record], ctx: Context
) -> None:
    path, first = ctx.csv("benchmark"), rows[0]
    stale = [
        replace(first, row="linear_ours_compiled", metric="all", value=math.nan, status="error"),
        replace(first, row="linear_vs_torchode"),
        replace(first, row="linear_diffrax_backsolve", metric="step_ms_1e-7"),
    ]
    before = records.merge([], rows)
    records.append(path, stale)
    assert records.read(path) != before
    # What is timed here is the same each time.
    assert repr(_again(ctx, "linear")) == repr(before)


def test_what_is_not_measured_again_stays_with_its_provenance(
    rows: list[Record], ctx: Context
) -> None:
    others = [
        replace(rows[0], row=f"{label}_ours_direct", run=12 * digit)
        for label, digit in (("van_der_pol", "0"), ("van_der_pol_stiff", "1"))
    ]
    records.append(ctx.csv("benchmark"), others)
    found = {r.row: r for r in _again(ctx, "van_der_pol", "linear_8x2")}
    made = provenance.read(ctx.csv("benchmark"))
    anew = {row for row, r in found.items() if "--only" in made.get(r.run, {}).get("command", "")}
    assert anew == {row for row in found if row.startswith(("van_der_pol_", "linear_8x2_"))} - {
        "van_der_pol_stiff_ours_direct"
    }
    assert found["van_der_pol_stiff_ours_direct"] == others[1]
    assert not any(r.overrides for r in found.values())


def test_a_problem_that_the_profile_leaves_out_may_be_asked_for(
    rows: list[Record], ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []
    monkeypatch.setattr(contest, "hold", lambda plan: asked.append(plan) or _outcome(plan))
    _again(ctx, "latent", "odenet")
    latent, *sessions, odenet = asked
    assert {plan.problem for plan in sessions} == {"latent"}
    assert (latent.problem, latent.sizes) == ("latent", {})
    assert (odenet.problem, odenet.sizes) == ("odenet", {"batch": 8})
    assert list(latent.tolerances) == list(TOLERANCES)


@pytest.mark.parametrize("other", [{"protocol": 1}, {"device": "a GPU"}])
def test_nothing_is_measured_beside_rows_of_another_protocol_or_device(
    rows: list[Record], ctx: Context, other: dict[str, Any]
) -> None:
    path = ctx.csv("benchmark")
    records.append(path, [replace(rows[0], row="cnf_ours_direct", run=12 * "0", **other)])
    before = path.read_bytes()
    with pytest.raises(BadSettings, match="Leave --only out"):
        benchmark.run(replace(ctx, only=("linear",)))
    assert path.read_bytes() == before
    benchmark.run(replace(ctx, only=("linear", "cnf")))


def test_the_time_of_ours_is_of_what_stood_for_it_when_the_ratios_were_taken(
    rows: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = benchmark.table(rows)
    monkeypatch.setattr(benchmark, "OURS_ELSEWHERE", "ours_adjoint")
    pd.testing.assert_frame_equal(benchmark.table(rows), shown)


def test_tables_and_figures_show_all_rows_and_the_status_tells_of_the_new_ones(
    rows: list[Record],
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(contest, "hold", lambda plan: replace(_outcome(plan), failed={}))
    given = ["benchmark", "--profile", "smoke", "--device", "cpu", "--out", str(ctx.out)]
    assert main([*given, "--only", "linear"]) == 0
    printed = capsys.readouterr().out
    shown = [line.split()[:2] for line in printed.splitlines()]
    assert "time not measured for this set-up" in printed
    assert ["linear", "forward"] in shown
    assert ["cnf", "forward"] in shown
    assert (ctx.out / "benchmark" / "smoke-sizes.png").exists()
    assert main([*given, "--report-only"]) == 1


def test_sizes_alone_make_a_figure(rows: list[Record], ctx: Context) -> None:
    sizes = [r for r in rows if r.row.startswith("linear_8x2")]
    (figure,) = benchmark.figures(sizes, ctx.out).values()
    assert figure.axes[0].get_ylabel() == "training step at tolerance 1e-5 (ms)"
    assert benchmark.table(sizes).empty


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("lorenz", "Unknown 'lorenz'. Choose of spiral, "),
        ("cnf,linear_8x8", "Unknown 'linear_8x8'. Choose of spiral, "),
        ("own", "Unknown 'own'"),
    ],
)
def test_labels_that_are_not_there_are_told_before_anything_is_measured(
    only: str, message: str, rows: list[Record], ctx: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ctx.csv("benchmark").read_bytes()
    given = ["benchmark", "--profile", "smoke", "--device", "cpu", "--out", str(ctx.out)]
    assert main([*given, "--only", only]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.endswith("linear_1x2, linear_8x2 under smoke; short and paper have more sizes.")
    assert ctx.csv("benchmark").read_bytes() == before


def test_a_field_of_ones_own_is_not_chosen_from_the_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["benchmark", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    field = ["--set", "model.field.class_path=lightning_modules.nets.PerceptronField",
             "--set", "model.field.init_args={dim: 2, hidden: 3}"]  # fmt: skip
    assert main([*given, *field, "--only", "linear"]) == 2
    assert "leave --only out" in capsys.readouterr().err


def test_figures_come_from_the_rows_alone(rows: list[Record], ctx: Context) -> None:
    read = records.read(ctx.csv("benchmark"))
    drawn = benchmark.figures(read, ctx.out)
    assert set(drawn) == {"", "forward", "sizes"}
    (linear,) = [axes for axes in drawn[""].axes if axes.get_title() == "linear"]
    assert {line.get_label() for line in linear.get_lines()} == {
        "ours", "torchdiffeq", "diffrax (jit)"
    }  # fmt: skip
    # Told apart without colour.
    looks = {(line.get_linestyle(), line.get_marker()) for line in linear.get_lines()}
    assert len(looks) == 3
    assert drawn["sizes"].axes[0].get_yscale() == "log"
    plain = [r for r in read if "8x2" not in r.row and "1x2" not in r.row]
    assert set(benchmark.figures(plain, ctx.out)) == {"", "forward"}


def test_every_problem_has_a_name_that_says_what_it_is() -> None:
    assert set(benchmark_plans.TITLES) == {*benchmark_plans.PROBLEMS, "own"}
    assert len(set(benchmark_plans.TITLES.values())) == len(benchmark_plans.TITLES)


def test_a_figure_shows_who_is_right_and_not_who_is_fast_and_wrong(rows: list[Record]) -> None:
    wrong = "linear_diffrax_recursive", "gradient_error_1e-3"
    changed = [replace(r, value=1e20) if (r.row, r.metric) == wrong else r for r in rows]
    assert changed != rows
    values = {(r.row, r.metric): r.value for r in rows}
    for seen, way in ((rows, "recursive"), (changed, "backsolve")):
        figure = over_error(seen, ["linear"], "step", "gradient_error", "error")
        lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
        times = [values[f"linear_diffrax_{way}", f"step_ms_1e-{n}"] for n in (3, 4, 5)]
        assert list(lines["diffrax (jit)"].get_ydata()) == times


def test_every_mark_names_a_row_that_is_measured(rows: list[Record]) -> None:
    marks = [q for c in claims() for q in c.quantities if q.experiment == "benchmark"]
    on_cpu = {f"{p}_vs_diffrax" for p in ("cnf", "latent", "spiral")}
    peers = ("ours_captured", "torchdiffeq_direct", "torchode_direct", "torchdyn_direct")
    on_gpu = {f"odenet_torchdiffeq_{way}" for way in ("adjoint", "compiled")}
    on_gpu |= {f"odenet_{a}" for a in peers}
    assert {q.row for q in marks} == on_cpu | on_gpu
    assert {row.removeprefix("odenet_") for row in on_gpu} <= set(ALTERNATIVES)
    measured = {r.metric for r in rows if r.row == "cnf_vs_diffrax"}
    measured |= {r.metric for r in rows if r.row == "cnf_torchdiffeq_direct"}
    assert {q.metric for q in marks} <= measured
    assert {"step_ratio_low", "step_ratio_high"} <= measured


def test_profiles_measure_where_the_marks_are() -> None:
    for profile in benchmark.PROFILES.values():
        assert benchmark.MARK in profile.overrides["tolerances"]
    assert {"cnf", "latent", "spiral"} <= set(benchmark.PROFILES["short"].overrides["problems"])


def test_a_field_from_a_package_of_ones_own_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "somebody"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from torch import nn\n"
        "class Decay(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(width, width)\n"
        "    def forward(self, t, y):\n"
        "        return self.layer(y).tanh() - y * t\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.syspath_prepend(str(tmp_path))
    sets = ["model.field.class_path=somebody.Decay", "model.field.init_args={width: 3}",
            "data.shape=[4, 3]", "data.alternatives=ours_direct,diffrax_recursive"]  # fmt: skip
    given = ["--profile", "smoke", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["benchmark", *given, *(x for s in sets for x in ("--set", s))]) == 0
    rows = records.read(tmp_path / "out" / "benchmark" / "smoke.csv")
    found = {(r.row, r.metric): r.value for r in rows}
    assert 0 < found["own_ours_direct", "error_1e-5"] < 1e-4
    assert found["own_ours_direct", "steps_1e-5"] > 1
    assert found["own_ours_direct", "step_ms_1e-5"] > 0
    (skipped,) = [r for r in rows if r.status == "skipped"]
    assert skipped.row == "own_diffrax_recursive"
    assert "jax_field" in skipped.hint or "diffrax is not there" in skipped.hint
    (made,) = provenance.read(tmp_path / "out" / "benchmark" / "smoke.csv").values()
    assert made["settings"]["sizes"]["field"]["class_path"] == "somebody.Decay"
    assert "torchdiffeq" in made["settings"]["peers"]


def test_without_a_reference_every_alternative_of_a_problem_fails() -> None:
    plan = Plan("linear", {"batch": 2}, ["ours_direct"], [1e-3], 1, 9.0, 0.0, 1, patience=0.01)
    outcome = contest.hold(plan)
    assert outcome.failed == {"ours_direct": "no reference: not ready after 0.04 s"}
    assert not outcome.told


def test_a_process_that_was_killed_says_why_it_may_have_been() -> None:
    """Alternatives stand side by side, and the largest problems do not fit into every memory."""
    plan = Plan("linear", {"batch": 2}, ["ours_direct"], [1e-3], 1, 9.0, 0.0, 1)
    with contest.Process(plan, None, "ours_direct") as process:
        process._running.kill()
        with pytest.raises(contest.Lost, match=r"process ended by signal 9: .* out of memory"):
            process.ask(9.0)


def test_marks_for_gpus_are_not_measured_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["benchmark", "--profile", "paper", "--device", "cpu", "--out", str(tmp_path)]) == 2
    )
    assert "Say --device cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.problems=cnf"], "benchmark has no setting data.problems"),
        (["data.alternatives=scipy"], "Unknown 'scipy'"),
        (["data.colour=red"], "benchmark has no setting data.colour"),
        (["data.shape=[64,2]"], "benchmark has no setting data.shape"),
        (["model.field.class_path=nowhere.Field"], "cannot be built"),
        (["model.field.class_path=torch.nn.Linear", "model.field.init_args={in_features: 1, "
          "out_features: 1}"], "cannot be called"),
        (["model.field.width=3"], "A field has class_path and init_args"),
        (["model.field.class_path=torch.nn.Linear", "model.field.init_args=5"],
         "init_args is 5; give a mapping"),
        (["model.field.class_path=torch.nn.Identity", "data.span=-1"], "data.span is -1"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line(
    sets: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [x for s in sets for x in ("--set", s)]
    assert main(["benchmark", "--profile", "smoke", "--out", str(tmp_path), *given]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, contest.FEWEST), (60.0, 12)])
def test_a_problem_that_takes_long_has_fewer_rounds(seconds: float, rounds: int) -> None:
    class Quick:
        def ask(self, patience: float, **order: Any) -> dict[str, float]:
            return {"seconds": 1.0}

    plan = Plan("linear", {}, ["ours_direct"], [1e-3], 12, seconds, 0.0, 1)
    outcome, ready = contest.Outcome(), {"ours_direct": cast(contest.Process, Quick())}
    contest._race(outcome, plan, ready)
    assert len(outcome.seconds["ours_direct", "step", 1e-3]) == rounds


def test_an_alternative_that_is_not_ready_in_time_fails_alone() -> None:
    plan = Plan(
        "linear", {"batch": 2}, ["ours_direct"], [1e-3], 2, 60.0, 0.0, 1, False, patience=0.01
    )
    outcome = contest.hold(plan)
    assert outcome.failed == {"ours_direct": "not ready after 0.01 s"}
    assert not outcome.seconds


def test_a_contender_answers_an_order_that_it_cannot_carry_out() -> None:
    from reproduce.contender import Contender

    contender = Contender({"problem": "lorenz", "sizes": {}, "reference": None})
    order = {"do": "prepare", "alternative": "ours_direct", "tolerances": [1e-3]}
    assert "Unknown problem 'lorenz'" in contender.answer(order)["failed"]


def test_no_library_takes_the_gpu_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from reproduce.contender import _make_equal

    given: dict[str, str] = {}
    monkeypatch.setattr("os.environ", given)
    monkeypatch.delattr("os.sched_setaffinity", raising=False)
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    _make_equal(torch.get_num_threads(), "cuda")
    assert given["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("errors", [[math.inf, 1e-3], [math.nan, math.nan], [3.0, 0.2]])
def test_a_gradient_without_a_right_digit_is_not_timed(errors: list[float]) -> None:
    from reproduce.contender import _refuse_wrong

    told = [{"error": 1e-6, "gradient_error": error} for error in errors]
    with pytest.raises(RuntimeError, match="errors of its gradient are"):
        _refuse_wrong(told)
    _refuse_wrong([{"error": 1e-6, "gradient_error": e} for e in (0.5, 1e-3)])
    _refuse_wrong([{"steps": 3.0}])
