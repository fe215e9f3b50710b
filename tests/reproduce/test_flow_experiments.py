"""Figures 4 and 5, two moons and the checks of flows: what is trained, derived and drawn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contexts import context

from reproduce import ensembles, jobs, maps, plotting, records
from reproduce.__main__ import main
from reproduce.claims import claims
from reproduce.context import Context
from reproduce.ensembles import Fit
from reproduce.experiments import fig4, fig5, flow_checks, two_moons
from reproduce.jobs import Job, Result
from reproduce.records import Record


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("moons")
    assert main(["two-moons", "--profile", "smoke", "--seeds", "2", "--out", str(out),
                 "--device", "cpu"]) == 0  # fmt: skip
    return out


def test_two_moons_has_rows_for_every_seed_and_part_of_the_training(moons: Path) -> None:
    rows = records.read(moons / "two_moons" / "smoke.csv")
    measured = {(r.row, r.seed) for r in rows if r.metric == "reconstruction_rms"}
    assert measured == {(row, seed) for row in two_moons.EPOCHS for seed in (0, 1)}
    assert {r.budget for r in rows if r.row == "cnf"} == {
        "20 iterations of Adam 0.01, batch 512"
    }  # fmt: skip
    values = {(r.row, r.metric, r.seed): r.value for r in rows}
    assert values["cnf", "parameters", 0] == 4816
    assert values["cnf", "nll", 0] != values["cnf", "nll", 1]


def test_two_moons_leaves_figure_stills_and_movie(moons: Path) -> None:
    from PIL import Image

    folder = moons / "two_moons"
    for name in ("smoke.png", "smoke.svg", "smoke-stills.png"):
        assert (folder / name).stat().st_size > 1000
    with Image.open(folder / "smoke.gif") as movie:
        assert movie.n_frames == two_moons.FRAMES  # type: ignore[attr-defined]


def test_fits_whose_rows_are_there_are_not_trained_again(
    moons: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (moons / "two_moons" / "smoke.csv").read_bytes()
    again = ["two-moons", "--profile", "smoke", "--seeds", "2", "--out", str(moons)]
    assert main([*again, "--device", "cpu"]) == 0
    assert "3 of 3 trainings have their rows" in capsys.readouterr().out
    assert (moons / "two_moons" / "smoke.csv").read_bytes() == before


def test_shipped_weights_of_an_ensemble_are_its_first_member(moons: Path) -> None:
    model, facts = ensembles.load(moons / "two_moons" / "weights" / "smoke-cnf.safetensors")
    assert (model.members, facts["seeds"], facts["rows"]) == (1, [0], ["cnf"])
    folders = (moons / "runs" / "two_moons").glob("cnf-*")
    content = torch.load(next(folders) / "checkpoints" / "last.ckpt", weights_only=True)
    first = content["state_dict"]["net.field.hyper.last.weight"][:1]
    assert torch.equal(model.net.state_dict()["field.hyper.last.weight"], first)


def test_a_file_of_other_weights_is_no_density_model(small_odenet: Path) -> None:
    path = small_odenet / "table1" / "weights" / "paper-odenet-seed0.safetensors"
    with pytest.raises(ValueError, match="does not fit the network"):
        ensembles.load(path)


@pytest.mark.parametrize("module", [fig4, fig5])
def test_every_job_has_settings_that_can_be_trained(module: object, tmp_path: Path) -> None:
    ctx = context(tmp_path, "paper", seeds=(0, 1))
    fits = (
        [fig4._fit(ctx, kind, size) for kind in fig4.KINDS for size in (2, 32)]
        if module is fig4
        else [fig5._fit(ctx, kind, data) for kind in fig5.KINDS for data in fig5.DATA]
    )
    for fit in fits:
        jobs._check_keys(fit.job(ctx, "fig", 1))
        assert len(fit.rows) == len(fit.seeds)


def test_the_papers_budgets_are_those_of_the_paper_profile(tmp_path: Path) -> None:
    ctx = context(tmp_path, "paper")
    texts = {
        kind: ensembles.budget(fig4._fit(ctx, kind, 8).job(ctx, "fig4", 1).resolved)
        for kind in ("cnf", "nf", "nf_adam")
    }
    assert texts["cnf"] == texts["nf_adam"] == "10,000 iterations of Adam 0.001, batch 512"
    assert texts["nf"] == "500,000 iterations of RMSprop 1e-05, batch 100"


@pytest.mark.parametrize("size", fig4.SIZES)
def test_deep_planar_flows_have_the_parameters_of_continuous_ones(size: int) -> None:
    from lightning_modules import DensityModel

    common = {"objective": "kl", "targets": ["u1"], "member_seeds": [0]}
    counts = [
        sum(p.numel() for p in DensityModel(flow=flow, size=n, **common).parameters())
        for flow, n in (("cnf", size), ("planar", fig4.planar_layers(size)))  # type: ignore[arg-type]
    ]
    assert counts[0] == {2: 1582, 4: 2044, 8: 2968, 16: 4816, 32: 8512}[size]
    assert abs(counts[1] - counts[0]) <= 2


def _records(rows: dict[str, list[float]], metric: str, experiment: str) -> list[Record]:
    return [
        Record(
            experiment,
            row,
            metric,
            value,
            "nats",
            seed,
            "short",
            1,
            "4 iterations",
            "",
            "cpu",
            "0" * 12,
        )
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


def test_figure_4_shows_means_and_intervals_never_the_best_seed(tmp_path: Path) -> None:
    rows = {f"{k}_{t}_{n}": [0.1, 0.2, 0.6] for k in fig4.KINDS for t in fig4.TARGETS
            for n in fig4.SIZES}  # fmt: skip
    made = _records(rows, "kl", "fig4") + _records(rows, "outside", "fig4")
    table = fig4.table(made)
    assert set(table["cnf"]) == {"0.300 ± 0.657 [30%]"}
    drawn = fig4.figures(made, tmp_path)
    assert set(drawn) == {"", "variants"}
    lines = drawn["variants"].axes[0].containers
    assert len(lines) == len(fig4.KINDS)


def test_figure_5_draws_its_gaps_without_weights(tmp_path: Path) -> None:
    rows = {f"{k}_{d}": [0.05, 0.06] for k in fig5.KINDS for d in fig5.DATA}
    drawn = fig5.figures(_records(rows, "nll_gap", "fig5"), tmp_path)
    assert set(drawn) == {"", "circles", "moons"}
    named = [text.get_text().replace("\n", " ") for text in drawn[""].axes[0].get_yticklabels()]
    assert named == [f"{d}, {k} flow" for d in fig5.DATA for k in ("continuous", "planar")]


def test_a_member_that_was_left_out_is_a_row_with_its_reason(tmp_path: Path) -> None:
    job = Job("fig4", "cnf_2", "fig4_cnf.yaml", {}, 0, 1)
    fit = Fit("cnf_2", "fig4_cnf.yaml", {}, ("cnf_u1_2", "cnf_u3_2"), (0, 0))
    metrics = {"test/kl/0": 0.3, "test/outside/0": 0.1}
    cost = {"train_seconds": 4.0, "train_nfe_forward": 50.0}
    process = {"threads": 2, "devices": ["cpu"]}
    result = Result(job, tmp_path, "ok", metrics=metrics, cost=cost, parameters=100,
                    process=process)  # fmt: skip
    rows = ensembles._records(context(tmp_path), fit, result, "kl", None)
    alive = {r.metric: r.value for r in rows if r.row == "cnf_u1_2"}
    assert alive == {"kl": 0.3, "outside": 0.1, "parameters": 50, "train_seconds": 2.0,
                     "train_nfe_forward": 50.0}  # fmt: skip
    (dead,) = [r for r in rows if r.row == "cnf_u3_2"]
    assert (dead.metric, dead.status) == ("kl", "diverged")
    assert "lower model.optimizer.lr" in dead.hint
    metrics["test/kl/1"] = float("nan")
    (lost,) = [
        r for r in ensembles._records(context(tmp_path), fit, result, "kl", None)
        if r.row == "cnf_u3_2"
    ]  # fmt: skip
    assert (lost.status, lost.hint) == ("diverged", ensembles.NOT_FINITE)
    failed = ensembles._records(
        context(tmp_path), fit, Result(job, tmp_path, "killed", "by hand"), "kl", None
    )
    assert [(r.row, r.status, r.hint) for r in failed] == [
        ("cnf_u1_2", "killed", "by hand"), ("cnf_u3_2", "killed", "by hand")
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["model.targets=[u1]", "model.init_args.size=3",
                                    "data.name=circles"])  # fmt: skip
def test_what_says_which_fit_a_row_is_cannot_be_changed(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fig4", "--profile", "smoke", "--set", change, "--out", str(tmp_path)]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert "says which training a row is" in capsys.readouterr().err


def test_no_rows_are_written_before_the_weights_that_belong_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    ctx, fit = context(tmp_path), Fit("cnf", "two_moons.yaml", {}, ("cnf",), (0,))
    result = Result(fit.job(ctx, "two_moons", 1), tmp_path, "ok")
    monkeypatch.setattr(Context, "train", lambda *_: iter([result]))
    monkeypatch.setattr(ensembles, "_keep_weights", full)
    with pytest.raises(OSError, match="No space"):
        ensembles.run(ctx, "two_moons", 1, [fit], "nll")
    assert not ctx.csv("two_moons").exists()


def test_weights_of_another_run_are_not_drawn(moons: Path) -> None:
    folder = moons / "two_moons"
    rows = records.read(folder / "smoke.csv")
    assert ensembles.drawn_from(folder, rows, "cnf") is not None
    others = [replace(r, run="f" * 12) for r in rows]
    assert ensembles.drawn_from(folder, others, "cnf") is None
    assert two_moons.movie(others, folder) is None


def test_a_target_integrates_to_one_over_its_map() -> None:
    for name in ("u1", "u3", "u4"):
        mass = float(maps.target_on_box(name).sum()) * (8 / maps.CELLS) ** 2
        assert mass == pytest.approx(1, abs=2e-3)


def test_equal_frames_give_equal_movies(tmp_path: Path) -> None:
    frames = [torch.rand(4, 5, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    paths = [plotting.save_movie(frames, tmp_path / f"{k}.gif") for k in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_theorem_1_and_all_traces_hold_to_the_solvers_tolerance() -> None:
    found = flow_checks._theorem(cells=300)
    assert found["largest_difference"] < 1e-5
    assert found["mass"] == pytest.approx(1, abs=0.01)
    assert flow_checks._traces()["largest_difference"] < 1e-12


def test_hutchinsons_estimates_have_no_bias_and_gaussian_noise_spreads_wider() -> None:
    found = flow_checks._hutchinson(4000)
    assert abs(found["hutchinson_rademacher"]["bias"]) < 4
    assert abs(found["hutchinson_gaussian"]["bias"]) < 4
    assert found["hutchinson_gaussian"]["spread"] > found["hutchinson_rademacher"]["spread"]


def test_the_example_solves_the_same_equation_as_ours() -> None:
    from lightning_modules.nets import PlanarField

    field, t = PlanarField(2, 6, 8, [0]).double(), torch.tensor(0.4, dtype=torch.float64)
    y = torch.randn(1, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(flow_checks._example(field)(t, y), field(t, y))


def test_flow_checks_without_a_trained_flow_say_how_to_train_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reproduce.evidence.SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m reproduce fig5 --profile smoke"):
        flow_checks._reversals(context(tmp_path))


def test_every_quantity_of_figures_4_and_5_that_a_claim_names_is_a_row_of_theirs() -> None:
    known = {f"{k}_{t}_{n}" for k in fig4.KINDS for t in fig4.TARGETS for n in fig4.SIZES}
    known |= {f"{k}_{d}" for k in fig5.KINDS for d in fig5.DATA}
    named = {
        q.row for claim in claims() for q in claim.quantities if q.experiment in ("fig4", "fig5")
    }
    assert len(named) > 20
    assert named <= known
