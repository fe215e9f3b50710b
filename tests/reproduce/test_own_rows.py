"""A user's own model, vector field and solver: from a package of theirs into our tables."""

import hashlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from contexts import context

from lightning_modules.solvers import (
    SolverSettings,
    backends,
    import_backend,
    odeint,
    unregister_backend,
)
from reproduce import (
    classification,
    jobs,
    own_fields,
    own_rows,
    provenance,
    records,
    train,
    trials,
)
from reproduce.__main__ import main
from reproduce.context import Context
from reproduce.experiments import ablations, fig3, table1, table2
from reproduce.jobs import BadSettings, Job
from reproduce.own_rows import OwnRow

PACKAGE = {
    "__init__.py": "",
    "models.py": """
        import pytorch_lightning as pl
        import torch
        from torch import nn


        class Model(pl.LightningModule):
            def __init__(self, logs: bool = True) -> None:
                super().__init__()
                self.inner, self.logs = nn.Linear(784, 10), logs

            def training_step(self, batch, index):
                images, labels = batch
                return nn.functional.cross_entropy(self.inner(images.flatten(1)), labels)

            def test_step(self, batch, index):
                images, labels = batch
                wrong = (self.inner(images.flatten(1)).argmax(1) != labels).float().sum()
                if self.logs:
                    self.log("test/wrong", wrong, reduce_fx="sum")
                    self.log("test/images", float(len(labels)), reduce_fx="sum")
                else:
                    self.log("test/accuracy", 1 - wrong / len(labels))

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)


        class Field(nn.Module):
            def __init__(self, width: int, shape: nn.Module, scale: float) -> None:
                super().__init__()
                self.convolution, self.shape = nn.Conv2d(width, width, 1), shape
                self.scale = scale

            def forward(self, t, y):
                return self.scale * self.shape(self.convolution(y)) * (1 + t)
    """,
    "solvers.py": """
        import torch

        NUMBER = 5


        def euler(field, y0, times, settings, norm, stats):
            ys = [y0]
            for t0, t1 in zip(times[:-1], times[1:]):
                y, dt = ys[-1], (t1 - t0) / 10
                for k in range(10):
                    y = y + dt * field(t0 + k * dt, y)
                    stats.steps_accepted += 1
                ys.append(y)
            return torch.stack(ys)
    """,
}
FIELD = {
    "class_path": "their_package.models.Field",
    # A class within a class, and a number as text, are built as a training builds them.
    "init_args": {"width": 8, "shape": {"class_path": "torch.nn.Tanh"}, "scale": "1e-0"},
}
ODENET = {
    "class_path": "lightning_modules.FieldClassifier",
    "init_args": {
        "field": FIELD,
        "stem": "conv",
        "width": 8,
        "groups": 4,
        "solver": {"backend": "their_package.solvers:euler", "method": "euler"},
        "schedule": {"name": "steps", "milestones": [60]},
    },
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package of the user's, found by this process and its children."""
    folder = tmp_path / "theirs"
    (folder / "their_package").mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / "their_package" / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")
    yield folder
    for name in [name for name in backends() if name.startswith("their_package")]:
        unregister_backend(name)
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def _write(folder: Path, name: str, model: dict[str, Any], **sections: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"model": model, **sections}))
    return path


def _model(**given: Any) -> dict[str, Any]:
    return {"class_path": "their_package.models.Model", **({"init_args": given} if given else {})}


def _ctx(out: Path, root: str | None, *own: OwnRow, profile: str = "smoke") -> Context:
    return context(out, profile, data_root=root, own=own)


def test_a_model_of_a_users_package_is_a_row_like_ours(
    package: Path, tmp_path: Path, mnist_root: str
) -> None:
    path = _write(package, "my_model", _model())
    row = own_rows.read(path, table1.ROWS)
    ctx = _ctx(tmp_path / "out", mnist_root, row)
    made = classification.run(ctx, "ablations", ablations.PROFILES["smoke"], [])
    assert records.read(ctx.csv("ablations")) == sorted(made, key=lambda r: r.metric)
    found = {r.metric: r for r in made}
    assert {r.row for r in made} == {"my_model"}
    assert found["test_images"].value == 32
    assert found["parameters"].value == 7_850
    assert 0 <= found["test_error"].value <= 100
    assert "test_loss" not in found
    assert "its own schedule" in found["test_error"].budget
    (entry,) = provenance.read(ctx.csv("ablations")).values()
    assert entry["own_row"] == {"class_path": row.class_path, "yaml_sha256": row.digest}
    source = (package / "their_package" / "models.py").read_bytes()
    assert entry["code_sha256"] == {"their_package.models": hashlib.sha256(source).hexdigest()}
    assert entry["settings"]["data"]["init_args"]["batch_size"] == 8
    assert list(ablations.table(made).index) == ["my_model"]
    left, _ = ablations.plot(made).axes
    assert [text.get_text() for text in left.get_yticklabels()][-1] == "my_model"
    again = classification.run(ctx, "ablations", ablations.PROFILES["smoke"], [])
    assert again == records.read(ctx.csv("ablations"))


def _child(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Put a script in the place of the child that trains; ``run`` is its run folder."""
    head = (
        "import json, pathlib, sys, yaml\n"
        "given = yaml.safe_load(open(sys.argv[sys.argv.index('--config') + 1]))\n"
        "run = pathlib.Path(given['trainer']['default_root_dir'])\n"
    )
    (folder / "child.py").write_text(head + body)
    launcher = folder / "python"
    launcher.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {folder}/child.py "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))


TRIED = """
trainer = given["trainer"]
assert (trainer["max_epochs"], trainer["limit_train_batches"]) == (1, 2), trainer
summary = {"status": "ok", "metrics": {"test/error": 3.0}, "cost": {}, "parameters": 7}
(run / "summary.json").write_text(json.dumps(summary))
"""


def test_a_model_that_does_not_log_what_the_table_needs_is_refused_before_the_training(
    package: Path, tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = _ctx(tmp_path / "out", mnist_root, _row(package, "silent"), profile="quick")
    _child(monkeypatch, tmp_path, TRIED)
    with pytest.raises(BadSettings, match="logged no test/wrong and no test/images") as told:
        classification.run(ctx, "table1", table1.PROFILES["quick"], [])
    assert str(told.value).startswith("table1, row silent: their_package.models.Model logged")
    assert "LightningModule that takes batches (images, labels)" in str(told.value)
    assert "\n" not in str(told.value)
    assert not ctx.csv("table1").exists()


def test_a_trial_that_ends_in_an_error_tells_it_with_what_a_model_must_be(
    package: Path, tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = _ctx(tmp_path / "out", mnist_root, _row(package), profile="quick")
    _child(monkeypatch, tmp_path, "raise RuntimeError('shapes do not fit')\n")
    with pytest.raises(BadSettings, match=r"shapes do not fit\. A model of this table is"):
        classification.run(ctx, "table1", table1.PROFILES["quick"], [])


def test_a_class_that_cannot_be_imported_is_one_line(
    package: Path,
    tmp_path: Path,
    mnist_root: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = _write(package, "absent", {"class_path": "their_package.models.Absent"})
    job = Job("table1", "absent", classification.BASE, {}, 0, 1, _placed(own_rows.read(path, ())))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.resolved))
    monkeypatch.setattr(sys, "argv", ["reproduce.train", "check", str(tmp_path / "job.yaml")])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == jobs.BAD_COMMAND_LINE
    said = capsys.readouterr().err
    _child(monkeypatch, tmp_path, f"print({said!r})\nsys.exit(2)\n")
    given = ["ablations", "--profile", "quick", "--device", "cpu", "--data-root", mnist_root]
    assert main([*given, "--out", str(tmp_path / "out"), "--row", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "no attribute 'Absent'" in shown
    assert "PYTHONPATH" in shown
    assert shown.count("\n") == 1


def test_a_class_that_cannot_be_imported_is_told_before_the_shortest_training(
    package: Path, tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(package, "absent", {"class_path": "their_package.models.Absent"})
    given = ["ablations", "--profile", "smoke", "--device", "cpu", "--data-root", mnist_root]
    assert main([*given, "--out", str(tmp_path / "out"), "--row", str(path)]) == 2
    assert "no attribute 'Absent'" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/**/*.csv"))


def test_fig3_measures_a_field_of_a_users_package_trained_by_a_solver_of_theirs(
    package: Path, small_odenet: Path, mnist_root: str
) -> None:
    row = own_rows.read(_write(package, "my_odenet", ODENET), ())
    ctx = _ctx(small_odenet, mnist_root, row)
    made = fig3.run(ctx)
    trained = records.read(ctx.csv("table1"))
    assert {r.row for r in trained} == {"my_odenet"}
    assert "their_package.solvers:euler euler" in trained[0].budget
    evaluations = {r.metric: r.value for r in trained if r.unit == "evaluations"}
    assert evaluations["train_nfe_forward"] == evaluations["test_nfe_forward"] == 10
    measured = {r.row for r in made}
    assert {"dopri5", "my_odenet_dopri5", "my_odenet_vode_adams"} <= measured
    errors = [r.value for r in made if (r.row, r.metric) == ("my_odenet_dopri5", "error_1e-5")]
    assert 0 < errors[0] < 1e-3
    assert any(line.get_label() == "my_odenet_dopri5" for line in _lines(fig3.plot(made)))
    other = replace(row, sections={"model": {**ODENET, "init_args": {"field": {**FIELD}}}})
    other.sections["model"]["init_args"]["field"] = {**FIELD, "class_path": "other.Field"}
    with pytest.raises(ValueError, match=r"and my_odenet\.yaml names .*other\.Field"):
        own_fields.odenets(replace(ctx, own=(other,)), "smoke")
    with (package / "their_package" / "models.py").open("a") as source:
        source.write("# edited\n")
    with pytest.raises(ValueError, match=r"another state of their_package\.models, .* Remove"):
        own_fields.odenets(ctx, "smoke")


def _lines(figure: Any) -> list[Any]:
    return [artist for axes in figure.axes for artist in axes.containers + axes.lines]


def test_a_solver_is_a_function_named_by_where_it_is_written(package: Path) -> None:
    import torch

    name = "their_package.solvers:euler"
    settings = SolverSettings(backend=name, method="euler")
    with pytest.raises(ValueError, match="import_backend"):
        odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), settings)
    backend = import_backend(name)
    assert import_backend(name) is backend
    solved = odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), settings)
    assert float(solved.ys[-1]) == pytest.approx(0.9**10)
    assert solved.stats.nfe_forward == solved.stats.steps_accepted == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_package.solvers:rk4", "cannot be imported"),
        ("their_package.nothing:solve", "No module named"),
        ("their_package.solvers:NUMBER", "is a int"),
        (":solve", "cannot be imported"),
    ],
)
def test_a_solver_that_is_not_there_is_named(name: str, said: str, package: Path) -> None:
    with pytest.raises(ValueError, match=said):
        import_backend(name)
    assert name not in backends()


def _row(package: Path, name: str = "mine", **sections: Any) -> OwnRow:
    return own_rows.read(_write(package, name, _model(), **sections), ())


def _placed(row: OwnRow) -> OwnRow:
    base = jobs.configuration(classification.BASE)
    return own_rows.placed(row, base, classification.FREE)


def test_a_copy_of_one_of_our_files_is_a_row_of_its_own(package: Path) -> None:
    copied = (Path(jobs.__file__).parent / "configs" / "odenet.yaml").read_text()
    (package / "my_odenet.yaml").write_text(copied)
    row = _placed(own_rows.read(package / "my_odenet.yaml", ()))
    overrides = table1.PROFILES["short"].overrides
    assert row.applying(overrides) == overrides
    ours = Job("table1", "odenet", "odenet.yaml", overrides, 0, 1)
    mine = Job("table1", "my_odenet", classification.BASE, row.applying(overrides), 0, 1, row)
    assert mine.resolved == ours.resolved
    assert mine.run != ours.run


def test_a_number_is_one_with_and_without_a_point(package: Path) -> None:
    text = "model: {class_path: a.B, init_args: {rtol: 1e-2, atol: [-1E+3, 1.5e-4], name: '1e-2'}}"
    (package / "mine.yaml").write_text(text)
    given = own_rows.read(package / "mine.yaml", ()).sections["model"]["init_args"]
    assert given == {"rtol": 0.01, "atol": [-1000.0, 1.5e-4], "name": "1e-2"}


def test_the_identity_of_a_row_follows_what_its_file_states(package: Path) -> None:
    def run(row: OwnRow) -> str:
        return Job("table1", row.name, classification.BASE, {}, 0, 1, _placed(row)).run

    first = run(_row(package))
    assert run(_row(package)) == first
    assert run(own_rows.read(_write(package, "mine", _model(logs=True)), ())) != first
    assert run(_row(package, data={"init_args": {"augment": False}})) != first


@pytest.mark.parametrize(
    ("file", "anew"), [("models.py", True), ("solvers.py", True), ("plots.py", False)]
)
@pytest.mark.parametrize("own", [True, False])
def test_a_run_is_made_anew_where_code_was_edited_that_its_settings_name(
    file: str, anew: bool, own: bool, package: Path
) -> None:
    path = _write(package, "my_odenet", ODENET)
    theirs = {f"model.{key}": ODENET["init_args"][key] for key in ("field", "solver")}

    def run() -> str:
        if not own:  # one of our rows, with what --set gives it
            return Job("table1", "odenet", "odenet.yaml", theirs, 0, 1).run
        row = _placed(own_rows.read(path, ()))
        return Job("table1", row.name, classification.BASE, {}, 0, 1, row).run

    first = run()
    with (package / "their_package" / file).open("a") as source:
        source.write("# edited\n")
    assert (run() != first) == anew
    assert not [name for name in sys.modules if name.startswith("their_package")]


def test_settings_of_a_profile_reach_a_model_that_states_them(package: Path) -> None:
    overrides = table1.PROFILES["short"].overrides
    assert _row(package).applying(overrides) == {"trainer.max_epochs": 3}
    stated = own_rows.read(_write(package, "my_odenet", ODENET), ())
    assert stated.applying(overrides) == overrides


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"trainer": {"max_epochs": 5}}, r"trainer\.max_epochs is 5, the protocol .* has 160"),
        ({"trainer": {"gradient_clip_val": 1}}, "does not set it"),
        ({"data": {"init_args": {"batch_size": 64}}}, r"data\.batch_size is 64"),
        ({"data": {"class_path": "datamodules.Spirals"}}, r"are datamodules\.MNIST"),
        ({"trainer": 5}, "has no settings"),
    ],
)
def test_another_protocol_is_refused(sections: dict[str, Any], said: str, package: Path) -> None:
    with pytest.raises(ValueError, match=said):
        _placed(_row(package, **sections))


def test_what_rows_of_ours_differ_in_a_row_may_choose(package: Path) -> None:
    data = {"class_path": "datamodules.MNIST", "init_args": {"deskew": True, "batch_size": 128}}
    row = _placed(_row(package, data=data, trainer={"max_epochs": 160}))
    assert row.sections["data"]["init_args"]["deskew"] is True
    assert set(row.sections) == {"model", "data"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("my-model.yaml", "", "a plain name"),
        ("class.yaml", "", "a plain name"),
        ("odenet.yaml", "", "is a row already"),
        ("mine.txt", "", "give a YAML file"),
        ("mine.yaml", "model: [", "is no YAML"),
        ("mine.yaml", "model: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("mine.yaml", "[]", "names no model"),
        ("mine.yaml", "model:", "names no model"),
        ("mine.yaml", "model: &a {class_path: a.B, init_args: *a}", "is no YAML of plain values"),
        ("mine.yaml", "model: {class_path: a.B, init_args: !!set {a}}", "of plain values"),
        ("mine.yaml", "1:", "is no YAML of plain values"),
        ("mine.yaml", "modle: {}", "it may state"),
        ("mine.yaml", "model: {}", "names no model"),
        ("mine.yaml", "model: {class_path: 5}", "names no model"),
        ("mine.yaml", "\0", "NUL"),
    ],
)
def test_a_file_that_is_no_row_is_one_line(
    name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    given = ["table1", "--device", "cpu", "--profile", "smoke", "--out", str(tmp_path / "out")]
    assert main([*given, "--row", str(tmp_path / name)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fig4"], "fig4 takes no --row: its rows are variants of our own models"),
        (["decay"], "decay takes no --row: it trains nothing"),
        (["compare", "table1"], "compare reads no --row"),
        (["table1", "--device", "cpu", "--report-only"], "leave --row out"),
        (["table1", "--device", "cpu", "--row", "{mine}"], "mine is a row already"),
    ],
)
def test_where_a_row_cannot_go_the_reason_is_told(
    arguments: list[str], said: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(_write(package, "mine", _model()))
    assert main([*(a.format(mine=path) for a in arguments), "--row", path]) == 2
    assert said in capsys.readouterr().err


def test_fig3_refuses_a_row_whose_field_is_not_known(package: Path, tmp_path: Path) -> None:
    ctx = _ctx(tmp_path, None, _row(package))
    with pytest.raises(ValueError, match=r"of lightning_modules\.FieldClassifier that state"):
        own_fields.odenets(ctx, "smoke")


def test_table_2_trains_a_row_with_every_number_of_points(package: Path, tmp_path: Path) -> None:
    row = own_rows.read(_write(package, "my_rnn", _model()), ())
    work = table2._own(_ctx(tmp_path, None, row))
    assert [fit.row for fit in work] == ["my_rnn_30", "my_rnn_50", "my_rnn_100"]
    for fit in work:
        assert fit.own is not None
        job = Job("table2", fit.row, fit.config, fit.overrides, fit.seed, 1, fit.own)
        assert job.resolved["model"] == _model()
        assert job.resolved["data"]["init_args"]["points"] == int(fit.row.split("_")[2])
        assert job.resolved["trainer"]["precision"] == "32-true"
    with pytest.raises(BadSettings, match=r"table2, row my_rnn: the data of this table"):
        table2._own(_ctx(tmp_path, None, _row(package, "my_rnn", data={"class_path": "x"})))


def test_a_failure_of_ours_is_left_as_it_is() -> None:
    job = Job("table1", "odenet", "odenet.yaml", {}, 0, 1)
    result = jobs.Result(job, Path("x"), "error", "why")
    assert trials.checked(result, trials.Contract(("test/wrong",), "what it must be")) is result
