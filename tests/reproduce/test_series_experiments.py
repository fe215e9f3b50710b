"""Table 2, its sweep and Figures 8 to 10: what is trained, derived and drawn."""

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from contexts import context
from PIL import Image
from torch import nn

from datamodules import Spirals
from lightning_modules import TrajectoryModel
from lightning_modules.solvers import SolverFailed
from reproduce import (
    evidence,
    fits,
    jobs,
    latent_space,
    paper,
    records,
    series_protocol,
    trained_series,
)
from reproduce.__main__ import main
from reproduce.claims import claims
from reproduce.experiments import fig8, fig10, latent_step, table2, table2_sweep
from reproduce.fits import Failed, Fit
from reproduce.jobs import Job, Result
from reproduce.records import Record

PROFILES = ("smoke", "quick", "short", "paper")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of Table 2 with 30 points, and the figures that are drawn from its weights."""
    out = tmp_path_factory.mktemp("series")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table2, "POINTS", (30,))
        patch.setattr(fig10, "TRAINED", (30,))
        for name in ("table2", "fig8", "fig9", "fig10"):
            assert main([name, "--profile", "smoke", "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_table_2_has_errors_ratio_and_probes(trained: Path) -> None:
    rows = records.read(trained / "table2" / "smoke.csv")
    values = {(r.row, r.metric): r.value for r in rows}
    errors = [values[f"{network}_30", "rmse"] for network in table2.NETWORKS]
    assert all(math.isfinite(error) for error in errors)
    expected = min(errors[:2]) / errors[2]
    assert values["advantage_30", "advantage"] == pytest.approx(expected)
    assert values["latent_ode_30", "parameters"] == 1259
    assert values["rnn_30", "parameters"] == 3 * 25 + 25 * 25 + 26 * 2
    assert 0 <= values["latent_ode_30", "probe_accuracy"] <= 1
    assert {r.budget for r in rows} == {"3 updates of Adam 0.01 (one cycle), batch 10"}


def test_rows_that_are_there_are_not_trained_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table2, "POINTS", (30,))
    before = (trained / "table2" / "smoke.csv").read_bytes()
    again = ["table2", "--profile", "smoke", "--out", str(trained), "--device", "cpu"]
    assert main(again) == 0
    assert "3 of 3 trainings have their rows" in capsys.readouterr().out
    assert (trained / "table2" / "smoke.csv").read_bytes() == before


@pytest.mark.parametrize("module", [table2, table2_sweep])
def test_every_training_has_a_row_of_its_own(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def finished(job: Job, *_: object, **__: object) -> Result:
        metrics = {f"test/{name}": 0.5 for name in ("rmse", "rmse_span", "rmse_median")}
        cost = {"train_seconds": 1.0, "train_nfe_forward": 26.0}
        done.append(job.row)
        return Result(job, tmp_path, "ok", metrics=metrics, cost=cost, parameters=7)

    monkeypatch.setattr(jobs, "run", finished)
    monkeypatch.setattr(table2, "PROBED", "none of them")
    module.run(context(tmp_path, "short"))
    name = module.__name__.rpartition(".")[2]
    rows = [r for r in records.read(tmp_path / name / "short.csv") if r.metric == "rmse"]
    assert len(done) == len(set(done)) > 8
    assert sorted(r.row for r in rows) == sorted(done)


def test_the_ratio_is_of_what_has_ended_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table2, "POINTS", (30,))

    def row(network: str, value: float, status: str = "ok") -> Record:
        run = f"{len(network) * 1000 + int(100 * abs(value)) if value == value else 0:012}"
        return Record("table2", f"{network}_30", "rmse", value, "", 0, "smoke", 1, "b", "", "cpu",
                      run, status)  # fmt: skip

    latent, gap = row("latent_ode", 0.4), row("rnn_gap", 0.5)
    ctx = context(tmp_path)
    assert table2._advantages(ctx, [latent, gap, row("rnn", math.nan, "diverged")]) == []
    (made,) = table2._advantages(ctx, [latent, gap, row("rnn", 0.04)])
    assert made.value == pytest.approx(0.1)
    (made,) = table2._advantages(ctx, [latent, gap, row("rnn", 0.6)])
    assert made.value == pytest.approx(1.25)
    kept = records.read(tmp_path / "table2" / "smoke.csv")
    assert [(r.row, r.value) for r in kept] == [("advantage_30", pytest.approx(1.25))]


def test_weights_predict_what_the_rows_say(trained: Path) -> None:
    rows = records.read(trained / "table2" / "smoke.csv")
    for network in table2.NETWORKS:
        model, facts = trained_series.of_table_2(f"{network}_30", [trained], "smoke")
        data = trained_series.spirals(facts)
        means = trained_series.predicted(model, data)
        missed = (means - data.fixed("test")[4])[:, data.grid :]
        (shipped,) = (r.value for r in rows if (r.row, r.metric) == (f"{network}_30", "rmse"))
        assert float(missed.square().mean().sqrt()) == pytest.approx(shipped, rel=1e-4)
        assert not any("/" in str(value) for value in facts["data"].values())


def test_figures_are_drawn_again_from_weights_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fig10, "TRAINED", (30,))
    for name in ("fig8", "fig9", "fig10"):
        figure = trained / name / "smoke.png"
        before = np.asarray(Image.open(figure).convert("L"), dtype=float)
        figure.unlink()
        again = [name, "--profile", "smoke", "--out", str(trained), "--device", "cpu"]
        assert main([*again, "--report-only"]) == 0
        after = np.asarray(Image.open(figure).convert("L"), dtype=float)
        # Rounding of predictions may move a line by less than a pixel.
        assert after.shape == before.shape
        assert np.abs(after - before).mean() < 0.5


def test_figure_8_measures_what_table_2_did(trained: Path) -> None:
    table = {(r.row, r.metric): r.value for r in records.read(trained / "table2" / "smoke.csv")}
    rows = {(r.row, r.metric): r.value for r in records.read(trained / "fig8" / "smoke.csv")}
    for network in fig8.NETWORKS:
        for metric in ("rmse", "rmse_span"):
            expected = table[f"{network}_30", metric]
            assert rows[network, metric] == pytest.approx(expected, rel=1e-4)


def test_figures_9_and_10_have_every_row(trained: Path) -> None:
    rows = records.read(trained / "fig9" / "smoke.csv")
    alone = [f"coordinate_{k}" for k in range(1, 5)]
    lines = {"line", *alone, "pair", *(f"pair_{row}" for row in alone)}
    assert {r.row for r in rows} == lines | {"pairs"}
    assert all(sum(r.row == line for r in rows) == latent_space.STEPS + 1 for line in lines)
    shares = {r.metric: r.value for r in rows if r.row == "pairs"}
    assert 1 <= shares["count"] <= 10
    assert 0 <= shares["flips_once"] <= 1
    assert 0 <= shares["ends_right"] <= 1
    rows = records.read(trained / "fig10" / "smoke.csv")
    assert {r.row for r in rows} == {
        "trained_30", *(f"given_{n}" for n in fig10.GIVEN)
    }  # fmt: skip
    values = {(r.row, r.metric): r.value for r in rows}
    assert values["trained_30", "rmse"] == values["given_30", "rmse"]
    assert values["given_50", "rmse"] != values["given_30", "rmse"]


@pytest.mark.parametrize("name", ["fig8", "fig9", "fig10"])
def test_without_weights_a_figure_says_how_to_make_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evidence, "SHIPPED", tmp_path)
    assert main([name, "--profile", "short", "--out", str(tmp_path), "--device", "cpu"]) != 0
    assert "python -m reproduce table2 --profile short" in capsys.readouterr().err


@pytest.mark.parametrize("profile", PROFILES)
def test_every_variant_has_settings_that_can_be_trained(profile: str) -> None:
    for variant, (networks, _) in table2_sweep.VARIANTS.items():
        for network in networks:
            given = table2_sweep._overrides(profile, variant, network)
            config = series_protocol.CONFIGS[network]
            job = Job("table2_sweep", variant, config, given, 0, 1)
            jobs._check_keys(job)
            parts = job.resolved
            TrajectoryModel(**parts["model"]["init_args"])
            Spirals(**parts["data"]["init_args"])
            assert parts["model"]["init_args"]["network"] == network


def test_variants_differ_from_the_base_in_what_their_name_says() -> None:
    def resolved(variant: str) -> dict[str, object]:
        given = table2_sweep._overrides("short", variant, "latent_ode")
        config = Job("x", variant, "latent_ode.yaml", given, 0, 1).resolved
        return {**config["data"]["init_args"], **config["model"]["init_args"]}

    base = resolved("base")
    changed = {
        v: {k for k, x in resolved(v).items() if x != base[k]} for v in table2_sweep.VARIANTS
    }
    assert changed["base"] == set()
    assert changed["longer"] == changed["shorter"] == {"steps"}
    assert changed["two_layers"] == {"layers"}
    assert changed["noise_0.3"] == {"noise", "noise_std"}
    assert changed["tight"] == {"solver"}
    assert len({frozenset(c) for v, c in changed.items() if v != "base"}) > 6


def test_the_paper_profile_has_the_papers_sizes_and_tolerance() -> None:
    given = series_protocol.overrides("paper", "latent_ode")
    config = Job("table2", "latent_ode", "latent_ode.yaml", given, 0, 1).resolved
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["recurrent"], model["latent"], model["units"], model["layers"]) == (25, 4, 20, 1)
    assert config["trainer"]["precision"] == "64-true"
    assert model["solver"]["rtol"] == paper.number("tolerances", "sequence", "tolerance").value
    assert (data["train_size"], data["grid"], data["future"]) == (1000, 100, 100)
    assert fits.budget(config) == "2,000 updates of Adam 0.01 (constant), batch 1000"


def test_claims_19_and_20_ask_for_rows_that_table_2_makes() -> None:
    quantities = [q for c in claims() if c.id in ("C19", "C20") for q in c.quantities]
    made = {(f"{network}_{n}", "rmse") for n in table2.POINTS for network in table2.NETWORKS} | {
        (f"advantage_{n}", "advantage") for n in table2.POINTS
    }
    made |= {(table2.PROBED, "probe_accuracy"), (table2.PROBED, "direction_flips")}
    assert {q.experiment for q in quantities} == {"table2"}
    assert all((q.row, q.metric) in made for q in quantities)


def test_what_says_which_network_a_row_is_cannot_be_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--profile", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert main(["table2", *given, "--set", "data.points=20"]) == 2
    assert "data.points" in capsys.readouterr().err


def test_a_failed_training_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job, *_: object, **__: object) -> Result:
        return Result(job, tmp_path, "diverged", "lower the rate")

    monkeypatch.setattr(jobs, "run", broken)
    fit = Fit("rnn_30", "rmse", "rnn.yaml", 0)
    rows = fits.run(context(tmp_path), "table2", 1, [fit], lambda *_: {}, lambda _: "")
    assert [(r.row, r.metric, r.status, r.hint) for r in rows] == [
        ("rnn_30", "rmse", "diverged", "lower the rate")
    ]
    assert math.isnan(rows[0].value)
    assert records.read(tmp_path / "table2" / "smoke.csv")[0].status == "diverged"


def test_rows_whose_settings_are_the_same_under_a_profile_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished(job: Job, *_: object, **__: object) -> Result:
        return Result(job, tmp_path, "ok")

    monkeypatch.setattr(jobs, "run", finished)
    work = [Fit(row, "rmse", "rnn.yaml", 0) for row in ("base", "unclipped")]
    measured: list[str] = []

    def measure(fit: Fit, *_: object) -> dict[str, float]:
        measured.append(fit.row)
        return {"rmse": 0.5}

    rows = fits.run(context(tmp_path), "table2", 1, work, measure, lambda _: "", keep=False)
    assert [row.row for row in rows] == measured == ["base", "unclipped"]
    assert len({row.run for row in rows}) == 1


def test_a_solver_that_fails_in_measuring_costs_a_row_and_a_further_metric_no_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def finished(job: Job, *_: object, **__: object) -> Result:
        trained.append(job.row)
        return Result(job, tmp_path, "ok")

    def measure(fit: Fit, *_: object) -> dict[str, float | Failed]:
        if fit.row == "rnn_50":
            raise SolverFailed("too stiff", time=0.5, step_size=1e-9, steps=7)
        return {"rmse": 0.5, "rmse_span": Failed("solver_failed", "loosen it")}

    monkeypatch.setattr(jobs, "run", finished)
    work = [Fit(row, "rmse", "rnn.yaml", 0, {"data.points": int(row[4:])})
            for row in ("rnn_30", "rnn_50")]  # fmt: skip
    for retry in (False, False, True):
        ctx = context(tmp_path, retry_failed=retry)
        fits.run(ctx, "table2", 1, work, measure, lambda _: "")
    assert trained == ["rnn_30", "rnn_50", "rnn_50"]  # a failure lasts until it is to be retried
    rows = records.read(tmp_path / "table2" / "smoke.csv")
    assert {(r.row, r.metric, r.status) for r in rows} == {
        ("rnn_30", "rmse", "ok"),
        ("rnn_30", "rmse_span", "solver_failed"),
        ("rnn_50", "rmse", "solver_failed"),
    }


def test_turning_is_the_angle_and_flips_are_counted() -> None:
    angle = torch.linspace(0, 3.0, 200)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    turned = latent_space.turning(torch.stack([circle, circle * torch.tensor([1.0, -1.0])]))
    expected = torch.tensor([3.0, -3.0]).double() * 198 / 199
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-4)
    assert latent_space.flips(torch.tensor([1.0, 2.0, -1.0, -3.0])) == 1
    assert latent_space.flips(torch.tensor([1.0, -2.0, 1.0])) == 2
    assert latent_space.flips(torch.tensor([1.0, 2.0])) == 0


def test_a_probe_tells_directions_that_the_latent_state_holds() -> None:
    data = Spirals(train_size=60, test_size=40, batch_size=10, data_seed=0)
    torch.manual_seed(0)
    model = TrajectoryModel()
    told = {}
    for purpose, count in (("train", 60), ("test", 40)):
        _, x, _, clockwise = data.trajectories(purpose, count)
        told[float(x.sum())] = clockwise

    def encode(times: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z0 = torch.zeros(len(x), 4)
        z0[:, 3] = told[float(x.sum())].float()
        return z0, z0

    model.encode = encode  # type: ignore[method-assign]
    assert latent_space.probe_accuracy(model, data) == 1.0
    assert latent_space.probe_accuracy(model, data, coordinates=3) < 0.7
    line = latent_space.line(model, data)
    torch.testing.assert_close(line[:, 3], torch.linspace(0, 1, latent_space.STEPS))
    lines = list(latent_space.pairs(model, data))
    clockwise = int(told[min(told, key=lambda key: len(told[key]))].sum())
    assert len(lines) == min(clockwise, 40 - clockwise)
    torch.testing.assert_close(lines[0][:, 3], torch.linspace(0, 1, latent_space.STEPS))


def test_alone_moves_one_coordinate_along_a_line_and_leaves_the_others_in_its_middle() -> None:
    start, end = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, -2.0])
    line = latent_space.between(start, end)
    assert len(line) == latent_space.STEPS
    torch.testing.assert_close(line[[0, -1]], torch.stack([start, end]))
    states = latent_space.alone(line, 1)
    torch.testing.assert_close(states[:, 1], line[:, 1])
    torch.testing.assert_close(states[:, [0, 2]], line[10, [0, 2]].expand(21, 2))


def test_the_sweep_repeats_some_rows_and_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []

    def finished(job: Job, *_: object, **__: object) -> Result:
        metrics = {f"test/{name}": 0.5 for name in ("rmse", "rmse_span", "rmse_median")}
        trained.append((job.row, job.seed))
        return Result(job, tmp_path, "ok", metrics=metrics)

    monkeypatch.setattr(jobs, "run", finished)
    ctx = context(tmp_path, "short", seeds=(0, 1, 2))
    for _ in range(2):  # the second time every row is there
        table2_sweep.run(ctx)
    repeated = [row for row, seed in trained if seed == 2]
    assert sorted(repeated) == sorted(table2_sweep.REPEATED)
    assert [row for row, seed in trained if seed == 1] == repeated
    assert len(trained) == len(set(trained)) == 47 + 2 * len(repeated)


def test_the_sweep_finds_its_shipped_rows_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = records.read(evidence.SHIPPED / "table2_sweep" / "short.csv")
    asked: list[str] = []

    def refused(job: Job, *_: object, **__: object) -> Result:
        asked.append(job.row)
        return Result(job, tmp_path, "diverged")

    monkeypatch.setattr(jobs, "run", refused)
    records.append(tmp_path / "table2_sweep" / "short.csv", shipped)
    table2_sweep.run(context(tmp_path, "short"))
    assert asked == []


def test_tables_and_figures_are_drawn_from_records_alone() -> None:
    def row(name: str, metric: str, seed: int, value: float) -> Record:
        return Record(
            "table2", name, metric, value, "", seed, "short", 1, "b", "", "cpu", "0" * 12
        )

    rows = [
        row(f"{name}_{n}", metric, seed, 0.1 * (seed + 1))
        for name in table2.NETWORKS
        for metric in ("rmse", "rmse_span")
        for n in table2.POINTS
        for seed in range(3)
    ]
    rows += [row(f"advantage_{n}", "advantage", s, 1.0 + s) for n in table2.POINTS for s in (0, 2)]
    shown = table2.table(rows)
    assert list(shown.index) == ["30/100", "50/100", "100/100"]
    assert shown.loc["30/100", "ratio"] == "2.00, 1.00 to 3.00"
    assert shown.loc["30/100", "rnn"].startswith("0.200 ± 0.248")
    assert len(table2.plot(rows).axes) == 2
    failed = [replace(r, value=math.nan, status="diverged") if r.seed == 0 else r for r in rows]
    assert table2.table(failed).loc["50/100", "rnn"].startswith("0.250")


def test_steps_are_timed_beside_the_example_and_solve_the_same(tmp_path: Path) -> None:
    given = ["--profile", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert main(["latent-step", *given]) == 0
    rows = records.read(tmp_path / "latent_step" / "smoke.csv")
    values = {(r.row, r.metric): r.value for r in rows}
    assert values[latent_step.REFERENCE, "ratio"] == 1.0
    assert {r.row for r in rows} == {*latent_step.NAMES, "solve"}
    assert values["solve", "largest_difference"] < 1e-4
    assert values["native_1e-5", "evaluations"] < values["native", "evaluations"]


def test_the_examples_step_reaches_every_weight_and_changes_none() -> None:
    batch = Spirals(points=20, grid=20, future=2, test_size=6, data_seed=0).fixed("test")[:3]
    model = latent_step._model("native")
    field = latent_step._example_field(model)
    step = latent_step._example(batch, torch.randn(6, 4), field, model)
    cells = [c.cell_contents for c in step.__closure__ or ()]
    weights = [w for m in cells if isinstance(m, nn.Module) for w in m.parameters()]
    before = [w.detach().clone() for w in weights]
    step()
    assert len(before) == 14
    assert all(w.grad is not None and bool(w.grad.any()) for w in weights)
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
