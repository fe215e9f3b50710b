"""Figure 7: rows, reference, checks of the integral and of calibration, and figures."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import PoissonEvents
from lightning_modules import PointProcessModel
from lightning_modules.point_process import intensity_errors
from reproduce import intensities, jobs, paper, records
from reproduce.__main__ import main
from reproduce.experiments import fig7
from reproduce.jobs import Job
from reproduce.records import Record

WANTED = {*fig7.TESTED, *fig7.INTEGRALS, "ks", "ks_p", "kernel_intensity_error", "kernel_kl"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, weights and figure of ten sequences."""
    out = tmp_path_factory.mktemp("fig7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fig7, "SEQUENCES", (10,))
        assert main(["fig7", "--profile", "smoke", "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_a_row_has_errors_reference_and_checks(smoke: Path) -> None:
    rows = records.read(smoke / "fig7" / "smoke.csv")
    values = {r.metric: r.value for r in rows}
    assert {(r.row, r.status) for r in rows} == {("sequences_10", "ok")}
    assert set(values) >= WANTED
    assert values["parameters"] == 4 + 4 * 20 + 20 + 20 * 4 + 4 + 4 * 20 + 20 + 20 + 1
    assert values["integral_error"] < 1e-3
    assert values["integral_error_tight"] < 1e-6
    data = PoissonEvents(batch_size=10, data_seed=0)
    assert values["events"] == len(torch.cat(data.sequences("train", 10)))
    assert {r.budget for r in rows} == {"3 updates of Adam 0.04 (one cycle), batch 10"}


def test_weights_give_the_errors_of_the_rows_and_the_figure_again(smoke: Path) -> None:
    rows = records.read(smoke / "fig7" / "smoke.csv")
    found = intensities.drawn_from(smoke / "fig7", rows, "sequences_10")
    assert found is not None
    model, data = found
    *_, at, truth, _, _ = data.fixed("test")
    with torch.no_grad():
        errors = intensity_errors(at, model.intensity(at), truth)
    values = {r.metric: r.value for r in rows}
    for name, error in errors.items():
        assert error == pytest.approx(values[name], rel=1e-4)
    others = [replace(r, run="f" * 12) for r in rows]
    assert intensities.drawn_from(smoke / "fig7", others, "sequences_10") is None

    figure = smoke / "fig7" / "smoke.png"
    before = np.asarray(Image.open(figure).convert("L"), dtype=float)
    figure.unlink()
    again = ["fig7", "--profile", "smoke", "--out", str(smoke), "--device", "cpu"]
    assert main([*again, "--report-only"]) == 0
    after = np.asarray(Image.open(figure).convert("L"), dtype=float)
    assert after.shape == before.shape
    assert np.abs(after - before).mean() < 0.5


def test_table_and_figure_need_no_weights(tmp_path: Path) -> None:
    rows = [
        Record("fig7", f"sequences_{n}", metric, (seed + 1) / n, "", seed, "short", 1,
               "b, batch 1", "", "cpu", "0" * 12)
        for n in fig7.SEQUENCES for metric in WANTED for seed in range(2)
    ]  # fmt: skip
    shown = fig7.table(rows)
    assert list(shown.index) == ["sequences_1", "sequences_10", "sequences_100"]
    assert shown.loc["sequences_10", "intensity_error"] == pytest.approx(0.15)
    assert shown.loc["sequences_10", "integral_error"] == pytest.approx(0.2)  # the largest
    (figure,) = fig7.figures(rows, tmp_path).values()
    assert len(figure.axes) == 4


@pytest.mark.parametrize("setting", ["data.batch_size=3", "data.data_seed=3"])
def test_what_says_which_training_a_row_is_cannot_be_set(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--profile", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert main(["fig7", *given, "--set", setting]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err


def test_the_paper_profile_has_the_papers_tolerance_and_every_profile_can_be_trained() -> None:
    for name, profile in fig7.PROFILES.items():
        job = Job("fig7", "sequences_1", "poisson_process.yaml", profile.overrides, 0, 1)
        jobs._check_keys(job)
        solver = job.resolved["model"]["init_args"]["solver"]
        tolerance = paper.number("tolerances", "sequence", "tolerance").value
        assert (solver["rtol"] == tolerance) == (name == "paper")


def test_a_kernel_estimate_has_the_mass_of_the_events_and_nears_the_truth() -> None:
    at = torch.linspace(0, 10, 1001).double()
    errors = []
    for count in (1, 10, 40):
        data = PoissonEvents(batch_size=count, data_seed=11)
        kernel = intensities.kernel_estimate(data, at)
        assert kernel is not None
        events = sum(map(len, data.sequences("train", count)))
        assert float(torch.trapezoid(kernel, at)) == pytest.approx(events / count, rel=1e-3)
        errors.append(intensity_errors(at, kernel, data.intensity(at))["intensity_error"])
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.12
    few = PoissonEvents(rate=0.1, batch_size=1, data_seed=11)
    assert len(few.sequences("train", 1)[0]) < intensities.FOLDS
    assert intensities.kernel_estimate(few, at) is None


def test_an_integral_that_is_off_is_found_off(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = PointProcessModel(latent=2, units=4, decoder=4).double()
    assert intensities.integral_errors(model, 4.0) == pytest.approx((0, 0), abs=1e-6)
    solve = PointProcessModel.expected_count
    monkeypatch.setattr(PointProcessModel, "expected_count", lambda m, t: 1.01 * solve(m, t))
    assert intensities.integral_errors(model, 4.0) == pytest.approx((0.01, 0.01), rel=1e-3)


def test_held_out_events_are_uniform_in_the_time_of_their_own_intensity_only() -> None:
    class Known:
        def __init__(self, data: PoissonEvents) -> None:
            self.data = data

        def expected_count(self, times: Tensor) -> Tensor:
            assert bool((times.diff() > 0).all())
            return self.data.expected_count(times)

    data = PoissonEvents(data_seed=11)
    times = data.fixed("test")[0]
    _, p = intensities.uniformity(Known(data), times, 10.0)  # type: ignore[arg-type]
    assert p > 0.01
    other = Known(PoissonEvents("wave"))
    statistic, p = intensities.uniformity(other, times, 10.0)  # type: ignore[arg-type]
    assert p < 1e-10
    assert math.isfinite(statistic)


def test_the_prior_is_the_same_however_many_sequences_there_are() -> None:
    for profile in fig7.PROFILES:
        for n in fig7.SEQUENCES:
            given = fig7._fit(profile, 0, n).overrides
            assert given["data.batch_size"] == n
            assert given["data.batch_size"] * given["model.optimizer.weight_decay"] == 1


def test_calibration_is_judged_on_events_that_did_not_train(smoke: Path) -> None:
    rows = records.read(smoke / "fig7" / "smoke.csv")
    values = {r.metric: r.value for r in rows}
    found = intensities.drawn_from(smoke / "fig7", rows, "sequences_10")
    assert found is not None
    model, data = found
    held_out, trained = data.fixed("test")[0], torch.cat(data.sequences("train", 10))
    ks, _ = intensities.uniformity(model, held_out, data.horizon)
    assert ks == pytest.approx(values["ks"], rel=1e-4)
    assert intensities.uniformity(model, trained, data.horizon)[0] != pytest.approx(ks, rel=1e-2)
