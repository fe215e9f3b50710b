"""Three bodies on springs: derivatives and standard errors, the rows, and what they show."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import train_job
from PIL import Image
from torch import Tensor

from datamodules import SpringObservations
from lightning_modules import PathModel
from reproduce import jobs, plotting, records, three_bodies
from reproduce.__main__ import main
from reproduce.claims import claims
from reproduce.experiments import springs
from reproduce.jobs import Job

SMOKE = ["--profile", "smoke", "--device", "cpu"]
FIGURES = ("smoke.png", "smoke-plane.png", "smoke-numbers.png", "smoke-error.png")


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_train", train_job)
        patch.setattr(plotting, "DPI", 30)
        patch.setattr(plotting, "MOVIE_DPI", 30)
        patch.setattr(springs, "FRAMES", 3)
        patch.setattr(springs, "MOVIE", (9.0, 11.0))
        patch.setattr(springs, "AHEAD", 2.0)
        yield patch


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Path:
    """The results of the smoke profile."""
    out = tmp_path_factory.mktemp("springs")
    assert main(["springs", *SMOKE, "--out", str(out)]) == 0
    return out


def _rows(out: Path) -> list[records.Record]:
    return records.read(out / "springs" / "smoke.csv")


def _values(out: Path) -> dict[tuple[str, str], float]:
    return {(r.row, r.metric): r.value for r in _rows(out) if r.status == "ok"}


def _data(**given: Any) -> SpringObservations:
    sizes = {"span": 3.0, "observations": 16, "future": 1.0, "grid": 21, "batch_size": 16}
    return SpringObservations(**{**sizes, "first": 16, "data_seed": 0, **given})


def _exact(data: SpringObservations) -> PathModel:
    """Return a model that has the true 18 numbers."""
    model = PathModel().double()
    _set(model, three_bodies.true_numbers(data))
    return model


def _set(model: PathModel, given: Tensor) -> None:
    net: Any = model.net
    net.guess.copy_(given[:12])
    net.field.stiffness_guess.copy_(given[12:15])
    net.field.rest_guess.copy_(given[15:])


def test_derivatives_through_the_solver_are_differences_of_the_truth() -> None:
    data = _data()
    given = three_bodies.true_numbers(data)
    positions, derivatives = three_bodies.jacobian(given, data.times)
    assert derivatives.shape == (6 * 16, 18)
    torch.testing.assert_close(
        positions, data.true_positions(data.times).flatten(), rtol=0, atol=1e-5
    )
    width = 1e-4
    for k in (0, 3, 6, 11, 12, 13, 17):  # of each kind
        moved = torch.zeros(18, dtype=torch.float64)
        moved[k] = width
        ends = []
        for sign in (1, -1):
            n = given + sign * moved
            other = SpringObservations(tuple(n[12:15].tolist()), tuple(n[15:].tolist()))
            ends.append(other.system.reference(data.times, n[:12])[:, :6].flatten())
        expected = (ends[0] - ends[1]) / (2 * width)
        torch.testing.assert_close(derivatives[:, k], expected, rtol=0, atol=1e-4)


def test_a_model_with_the_true_numbers_foretells_and_has_no_error() -> None:
    data = _data()
    model = _exact(data)
    found = three_bodies.errors(three_bodies.predicted(model, data.at), data)
    assert found["rmse_span"] < 1e-5
    assert found["rmse_future"] < 1e-5
    assert found["horizon"] == 1.0
    values = three_bodies.recovery(model, data)
    assert max(abs(values[f"error_{name}"]) for name in three_bodies.NUMBERS) < 1e-12
    assert values["chi_square"] < 1e-12
    assert three_bodies.misfit(model, data) == pytest.approx(1, abs=0.45)  # of 96 residuals


def test_standard_errors_are_those_of_repeated_observations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Least squares on noise drawn again and again: χ² of the 18 errors is 18 on average."""
    monkeypatch.setattr(three_bodies, "TOLERANCE", 1e-5)
    data = _data(span=5.0)
    true = three_bodies.true_numbers(data)
    clean = data.true_positions(data.times).flatten()
    model, draw = _exact(data), torch.Generator().manual_seed(0)
    squares, errors, sd = [], [], []
    for _ in range(12):
        noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64)
        data.observed = (clean + data.noise * noise).view(-1, 6)
        found = true
        for _ in range(2):  # steps of Gauss and Newton
            positions, derivatives = three_bodies.jacobian(found, data.times)
            rest = (data.observed.flatten() - positions).unsqueeze(1)
            found = found + torch.linalg.lstsq(derivatives, rest).solution[:, 0]
        _set(model, found)
        values = three_bodies.recovery(model, data)
        assert values["undone"] < 0.1
        squares.append(values["chi_square"])
        errors.append([values[f"error_{name}"] for name in three_bodies.NUMBERS])
        sd.append([values[f"sd_{name}"] for name in three_bodies.NUMBERS])
    # Twelve times a χ² of 18 degrees of freedom: mean 18, standard error 1.7.
    assert sum(squares) / len(squares) == pytest.approx(18, abs=5)
    z = np.square(np.array(errors) / np.array(sd))
    assert float(z.mean()) == pytest.approx(1, abs=0.35)


def test_what_is_undone_is_how_far_the_numbers_are_from_the_nearest_fit() -> None:
    data = _data()
    model = _exact(data)
    data.observed = data.true_positions(data.times)  # so that the truth is the best fit
    true = three_bodies.true_numbers(data)
    _, derivatives = three_bodies.jacobian(true, data.times)
    fisher = derivatives.T @ derivatives / data.noise**2
    step = torch.linalg.inv(torch.linalg.cholesky(fisher)).T @ torch.full(
        (18,), 0.05, dtype=torch.float64
    )
    _set(model, true + step)
    values = three_bodies.recovery(model, data)
    expected = 18 * 0.05**2
    assert values["chi_square"] == pytest.approx(expected, rel=0.1)
    assert values["undone"] == pytest.approx(expected, rel=0.1)


def test_a_horizon_ends_where_the_distance_is_first_too_large() -> None:
    data = _data()
    for from_time, horizon in ((3.6, 0.6), (3.0, 0.0), (9.0, 1.0)):
        missed = 0.21 * (data.at >= from_time - 1e-9)
        found = data.truth.clone()
        found[:, ::2] += missed.unsqueeze(1)
        assert three_bodies.errors(found, data)["horizon"] == pytest.approx(horizon)
    distances = three_bodies.distances(found + 3.0, found)
    assert distances.tolist() == pytest.approx([3 * math.sqrt(2)] * 21)


def test_the_error_to_come_is_what_the_fisher_information_says() -> None:
    data = _data()
    model = _exact(data)
    times = data.at[::4]
    _, derivatives = three_bodies.jacobian(three_bodies.numbers(model), data.times)
    covariance = torch.linalg.inv(derivatives.T @ derivatives / data.noise**2)
    root = torch.linalg.cholesky(covariance)
    draws = torch.randn(400, 18, generator=torch.Generator().manual_seed(0)).double() @ root.T
    _, later = three_bodies.jacobian(three_bodies.numbers(model), times)
    moved = (draws @ later.T).view(400, len(times), 3, 2).square().sum(dim=3).mean(dim=(0, 2))
    found = three_bodies.foreseen(model, data, times)
    torch.testing.assert_close(found, moved.sqrt(), rtol=0.1, atol=0)


def test_a_model_without_springs_has_no_numbers() -> None:
    with pytest.raises(ValueError, match="has no springs"):
        three_bodies.numbers(PathModel("network"))


def test_every_row_has_every_metric(smoke: Path) -> None:
    values = _values(smoke)
    for row in springs.ROWS:
        for metric in ("rmse_span", "rmse_future", "horizon", "misfit", "train_seconds"):
            assert math.isfinite(values[row, metric])
    assert values["physics", "parameters"] == 18
    assert values["network", "parameters"] == (64 + 64) + (64 * 64 + 64) + (64 * 6 + 6)
    for name in three_bodies.NUMBERS:
        assert values["physics", f"sd_{name}"] > 0
    assert len(three_bodies.NUMBERS) == 18
    table = springs.table(_rows(smoke))
    assert list(table.index) == list(springs.ROWS)
    budgets = {r.row: r.budget for r in _rows(smoke)}
    assert budgets["physics"] == "3 updates of Adam 0.05 (one cycle), batch 80"


def test_the_claim_of_the_deck_names_what_is_measured(smoke: Path) -> None:
    (claim,) = (claim for claim in claims() if claim.id == "D08")
    named = {(q.row, q.metric) for q in claim.quantities if q.experiment == "springs"}
    assert len(named) == 5
    assert named <= set(_values(smoke))


def test_the_weights_beside_the_rows_foretell_as_the_rows_say(smoke: Path) -> None:
    values, folder = _values(smoke), smoke / "springs"
    starts = set()
    for row in springs.ROWS:
        found = three_bodies.drawn_from(folder, _rows(smoke), row)
        assert found is not None
        model, data = found
        missed = three_bodies.errors(three_bodies.predicted(model, data.at), data)
        assert missed["rmse_span"] == pytest.approx(values[row, "rmse_span"], rel=1e-4)
        assert three_bodies.misfit(model, data) == pytest.approx(values[row, "misfit"], rel=1e-4)
        starts.add(tuple(data.observed[3].tolist()))
    assert len(starts) == 1  # all rows learn from the same observations


def test_the_figures_and_the_movie_are_drawn_again_from_what_stands_beside_the_rows(
    smoke: Path, patched: pytest.MonkeyPatch
) -> None:
    folder = smoke / "springs"
    with Image.open(folder / "smoke.gif") as movie:
        assert movie.n_frames == 3
    before = {name: np.asarray(Image.open(folder / name).convert("L")) for name in FIGURES}
    for name in FIGURES:
        (folder / name).unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is trained to draw")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_train", refuse)
        patch.setattr(springs, "movie", lambda *_: None)
        assert main(["springs", *SMOKE, "--out", str(smoke), "--report-only"]) == 0
    for name, old in before.items():
        new = np.asarray(Image.open(folder / name).convert("L"))
        assert np.abs(new.astype(float) - old).mean() < 1


def test_without_weights_no_empty_figure_is_made(smoke: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="weights of physics"):
        springs.figures(_rows(smoke), tmp_path)


def test_rows_of_another_seed_are_not_drawn_against_this_seeds_truth(
    smoke: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = smoke / "springs"
    rows = _rows(smoke)
    pairs = {row: three_bodies.drawn_from(folder, rows, row) for row in springs.ROWS}
    other = three_bodies.observed({"data_seed": None}, 7)
    assert pairs["network"] is not None
    pairs["network"] = (pairs["network"][0], other)
    monkeypatch.setattr(three_bodies, "drawn_from", lambda folder, rows, row: pairs[row])
    assert set(springs._drawn(rows, folder)) == {"physics", "neural_ode"}


def test_what_cannot_be_followed_is_lost_at_once() -> None:
    data = three_bodies.observed({"data_seed": None}, 0)
    found = data.truth.clone()
    found[data.at > data.span] = torch.nan
    assert three_bodies.errors(found, data)["horizon"] < 0.2


def test_all_rows_learn_from_the_same_observations_and_know_their_noise() -> None:
    resolved = [Job("springs", r, f"springs_{r}.yaml", {}, 0, 1).resolved for r in springs.ROWS]
    own = ("growth",)
    shared = [
        {k: v for k, v in config["data"]["init_args"].items() if k not in own}
        for config in resolved
    ]
    assert shared[0] == shared[1] == shared[2]
    assert {c["model"]["init_args"]["noise_std"] for c in resolved} == {shared[0]["noise"]}
    assert [c["model"]["init_args"]["kind"] for c in resolved] == list(springs.ROWS)


@pytest.mark.parametrize("key", springs.FIXED)
def test_what_says_which_training_a_row_is_cannot_be_set(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["springs", *SMOKE, "--out", str(tmp_path), "--set", f"{key}=1"]) == 2
    assert key in capsys.readouterr().err


def test_changed_settings_of_which_no_weights_are_kept_end_well_without_a_figure(
    smoke: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = _rows(smoke)

    def run(ctx: Any) -> list[records.Record]:
        named = [replace(row, overrides=ctx.overrides_text) for row in rows]
        path = ctx.csv("springs")
        path.parent.mkdir(exist_ok=True)
        records.to_frame(named).to_csv(path, index=False, columns=list(records.COLUMNS))
        return named

    monkeypatch.setattr(springs, "run", run)
    given = ["springs", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*given, "--epochs", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "No figure: it lacks weights of physics" in out
    assert "kept of unchanged settings alone" in out
    assert main(given) == 2  # of unchanged settings there should be weights
