"""What all trainings share: their rows, and what these say of several devices."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from contexts import context
from in_process import CONFIGS

from lightning_modules import classifier, density, path, trajectories
from reproduce import classification, ensembles, fits, trainings
from reproduce.context import Context
from reproduce.experiments import table1
from reproduce.jobs import Job, Result
from reproduce.records import Record

WITHOUT_EQUATION = {"mlp", "mlp_deskewed", "no_block", "one_block", "resnet", "small_resnet"}
WITHOUT_EQUATION |= {"fig4_nf", "fig5_nf", "rnn", "rnn_gap", "springs_network"}
FIXED_STEPS = {"spiral_end", "spiral_path", "two_moons"}
TWO = {"trainer.devices": 2, "trainer.strategy": "ddp"}
SHARED = {"model.solver.sync_norm": True}


def _classifiers(ctx: Context) -> list[Record]:
    return classification.run(ctx, "table1", table1.PROFILES["smoke"], ["odenet"])


def _fits(ctx: Context) -> list[Record]:
    fit = fits.Fit("latent_ode_30", "rmse", "latent_ode.yaml", 0)
    return fits.run(ctx, "table2", 1, [fit], lambda *_: {}, lambda _: "")


def _ensembles(ctx: Context) -> list[Record]:
    fit = ensembles.Fit("cnf", "fig4_cnf.yaml", {}, ("cnf_u1_2", "cnf_u3_2"), (0, 0))
    return ensembles.run(ctx, "fig4", 1, [fit], "kl")


@pytest.mark.parametrize("run", [_classifiers, _fits, _ensembles])
@pytest.mark.parametrize(
    ("devices", "changes", "device", "steps"),
    [
        (1, {}, "cpu, 1 threads", ""),
        (2, {}, "2 processes: cpu, 1 threads", ", steps apart on 2 devices"),
        (2, SHARED, "2 processes: cpu, 1 threads", ", steps shared by 2 devices"),
    ],
    ids=["one", "apart", "shared"],
)
def test_rows_of_every_kind_say_which_devices_trained_them_and_whose_steps_they_took(
    run: Callable[[Context], list[Record]],
    devices: int,
    changes: dict[str, Any],
    device: str,
    steps: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(_: Context, work: Sequence[Job]) -> Iterator[Result]:
        for job in work:
            yield Result(job, tmp_path, "diverged", "lower the rate")

    monkeypatch.setattr(Context, "train", train)
    monkeypatch.setattr("datamodules.MNIST.prepare_data", lambda _: None)
    given = {"device_text": "cpu, 1 threads", "devices": devices, "changes": changes}
    rows = run(context(tmp_path, **given))
    assert {row.device for row in rows} == {device}
    assert [", steps" in row.budget for row in rows] == [bool(steps)] * len(rows)
    assert all(row.budget.endswith(steps) for row in rows)


@pytest.mark.parametrize("config", CONFIGS)
def test_steps_are_apart_where_an_adaptive_solver_has_a_part_of_the_batch(config: str) -> None:
    name = config.removesuffix(".yaml")
    one, two, shared = (
        trainings.steps_text(Job("any", name, config, given, 0, 1).resolved)
        for given in ({}, TWO, {**TWO, **SHARED, "trainer.num_nodes": 3})
    )
    chosen = name not in WITHOUT_EQUATION | FIXED_STEPS
    assert one == ""
    assert two == (", steps apart on 2 devices" if chosen else "")
    assert shared == (", steps shared by 6 devices" if chosen else "")
    solver = trainings.solver_of(Job("any", name, config, {}, 0, 1).resolved)
    assert (solver is None) == (name in WITHOUT_EQUATION)


def test_each_kind_of_model_that_solves_no_equation_is_one_that_there_is() -> None:
    choices = {
        "body": classifier.Body,
        "flow": density.Kind,
        "kind": path.Kind,
        "network": trajectories.Network,
    }
    solving = {
        name: set(get_args(choice)) - set(trainings._WITHOUT_EQUATION[name])
        for name, choice in choices.items()
    }
    assert solving == {
        "body": {"ode"},
        "flow": {"cnf", "ffjord"},
        "kind": {"physics", "neural_ode"},
        "network": {"latent_ode"},
    }
    for name, choice in choices.items():
        assert set(trainings._WITHOUT_EQUATION[name]) < set(get_args(choice))


def test_a_method_that_is_not_known_here_is_taken_to_choose_its_steps() -> None:
    solver = {"model.solver.backend": "their_package.solvers:rosenbrock"}
    config = Job("table1", "odenet", "odenet.yaml", {**TWO, **solver}, 0, 1).resolved
    assert trainings.steps_text(config) == ", steps apart on 2 devices"
