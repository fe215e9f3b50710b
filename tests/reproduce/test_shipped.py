"""The shipped results: complete, readable, and weights that answer as the shipped errors say."""

import csv
import importlib
from pathlib import Path

import pytest
import torch

from datamodules import MNIST, PlaneData
from reproduce import (
    ensembles,
    evidence,
    provenance,
    records,
    trained,
    trained_series,
    weights,
)
from reproduce.catalogue import names
from reproduce.experiments import table1, table2

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(RESULTS.glob("*/*.csv"))
WEIGHTS = sorted(RESULTS.glob("table1/weights/short-*.safetensors"))
FLOWS = sorted(RESULTS.glob("fig[45]/weights/short-*.safetensors"))
SERIES = sorted(RESULTS.glob("table2/weights/short-*.safetensors"))
LIKELIHOODS = sorted(RESULTS.glob("fig5/weights/short-*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_row_has_its_provenance_its_protocol_and_a_figure(path: Path) -> None:
    rows = records.read(path)
    module = importlib.import_module(f"reproduce.experiments.{path.parent.name}")
    made = provenance.read(path)
    assert rows
    assert {row.run for row in rows} <= set(made)
    assert {row.protocol for row in rows} == {module.PROTOCOL}
    assert {row.profile for row in rows} == {path.stem}
    assert not any(row.overrides for row in rows)
    assert not any(entry["dirty"] for entry in made.values())
    for suffix in (".png", ".svg"):
        assert path.with_suffix(suffix).stat().st_size > 1000


def test_every_row_of_table_1_ships_the_weights_that_other_experiments_start_from() -> None:
    rows = {path.stem.removeprefix("short-").partition("-seed")[0] for path in WEIGHTS}
    assert rows == set(table1.ROWS)
    seeds = [trained.classifier(path)[1]["seed"] for path in WEIGHTS if "odenet" in path.stem]
    assert seeds[0] == 0
    assert seeds == sorted(set(seeds))


def test_every_folder_belongs_to_an_experiment() -> None:
    assert {path.parent.name for path in FILES} <= set(names())


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_shipped_weights_are_small_and_err_where_the_shipped_errors_say(
    path: Path, mnist_root: str
) -> None:
    assert path.stat().st_size < weights.LARGEST
    model, facts = trained.classifier(path)
    data = MNIST(root=mnist_root, deskew="deskewed" in facts["row"])
    data.prepare_data()
    data.setup("test")
    # The whole first mini-batch: for an ODE-Net it is one equation.
    images, labels = next(iter(data.test_dataloader()))
    with torch.no_grad():
        answers = model(images).argmax(dim=1)
    wrong = set((answers != labels).nonzero().flatten().tolist())
    lines = evidence.read(path.parents[1] / "errors" / "short.csv", evidence.ERROR)
    shipped = {
        int(line["image"])
        for line in lines
        if line["run"] == facts["run"] and int(line["image"]) < len(labels)
    }
    # Rounding may turn an answer that was a near tie; eight-bit weights a few more.
    assert len(wrong ^ shipped) <= 3


def test_comparison_has_a_line_for_every_verdict() -> None:
    with open(RESULTS / "comparison.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {"number", "claim"} <= {line["kind"] for line in lines}
    assert all(line["verdict"] for line in lines)


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_shipped_flows_are_small_and_belong_to_the_shipped_rows(path: Path) -> None:
    assert path.stat().st_size < weights.LARGEST
    model, facts = ensembles.load(path)
    rows = records.read(path.parents[1] / "short.csv")
    assert {
        (row, seed, facts["run"]) for row, seed in zip(facts["rows"], facts["seeds"], strict=True)
    } <= {(r.row, r.seed, r.run) for r in rows}
    assert model.members == len(facts["rows"])


@pytest.mark.parametrize("path", LIKELIHOODS, ids=lambda path: path.stem)
def test_shipped_flows_have_the_likelihood_of_the_shipped_rows(path: Path) -> None:
    model, facts = ensembles.load(path)
    rows = records.read(path.parents[1] / "short.csv")
    data = PlaneData(facts["rows"][0].partition("_")[2], member_seeds=facts["seeds"])
    with torch.no_grad():
        found = -model.log_prob(data.fixed("test")).mean(dim=1)
    for row, seed, value in zip(facts["rows"], facts["seeds"], found.tolist(), strict=True):
        (shipped,) = (r.value for r in rows if (r.row, r.seed, r.metric) == (row, seed, "nll"))
        assert value == pytest.approx(shipped, abs=2e-3)


def test_every_network_of_table_2_ships_the_weights_that_its_figures_are_drawn_from() -> None:
    names = {f"short-{network}_{n}" for network in table2.NETWORKS for n in table2.POINTS}
    assert {path.stem for path in SERIES} == names


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
def test_shipped_series_models_have_the_errors_of_the_shipped_rows(path: Path) -> None:
    assert path.stat().st_size < weights.LARGEST
    model, facts = trained_series.load(path)
    with torch.no_grad():
        beyond, span = model.errors(trained_series.spirals(facts).fixed("test"))
    rows = records.read(path.parents[1] / "short.csv")
    for metric, squares in (("rmse", beyond), ("rmse_span", span)):
        (shipped,) = (
            r.value
            for r in rows
            if (r.row, r.seed, r.metric) == (facts["row"], facts["seed"], metric)
        )
        assert float(squares.nanmean().sqrt()) == pytest.approx(shipped, rel=1e-2)
