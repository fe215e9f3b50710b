"""Jobs: identity, child processes, results of failures."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reproduce import jobs, refusals
from reproduce.jobs import BadSettings, Job

JOB = Job("table1", "odenet", "odenet.yaml", {"trainer.max_epochs": 1}, seed=0, protocol=1)


DONE = """
summary = {"status": "ok", "metrics": {"test/wrong": 3.0}, "cost": {}, "parameters": 7}
(folder / "summary.json").write_text(json.dumps(summary))
"""


def _ignore(state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"protocol": 2},
        {"overrides": {"trainer.max_epochs": 2}},
        {"overrides": {"trainer.max_epochs": 1, "model.solver.rtol": 1e-4}},
        {"config": "rknet.yaml"},
    ],
    ids=str,
)
def test_what_changes_the_result_changes_the_identity(change: dict[str, Any]) -> None:
    assert replace(JOB, **change).run != JOB.run


def test_where_files_lie_does_not_change_the_identity() -> None:
    moved = {**JOB.overrides, "data.root": "elsewhere", "trainer.default_root_dir": "there"}
    assert replace(JOB, overrides=moved).run == JOB.run


def test_short_keys_mean_what_they_mean_on_the_command_line() -> None:
    short = replace(JOB, overrides={"model.solver.rtol": 1.0}).resolved
    long = replace(JOB, overrides={"model.init_args.solver.rtol": 1.0}).resolved
    assert short == long
    assert short["model"]["init_args"]["solver"]["rtol"] == 1.0


def test_a_finished_run_is_found_and_not_trained_again(tmp_path: Path, child: Any) -> None:
    child(DONE + "(folder / 'count').open('a').write('x')\n")
    first, second = (jobs.run(JOB, tmp_path / "runs", _ignore) for _ in range(2))
    assert (first.found, second.found) == (False, True)
    assert first.metrics == second.metrics == {"test/wrong": 3.0}
    assert first.parameters == 7
    assert (JOB.folder(tmp_path / "runs") / "count").read_text() == "x"


def test_a_broken_run_is_resumed_from_its_checkpoint(tmp_path: Path, child: Any) -> None:
    """Which of them, the training itself decides: it alone has the folder by then."""
    folder = JOB.folder(tmp_path / "runs")
    child(DONE + "(folder / 'arguments').write_text(' '.join(sys.argv))\n")
    jobs.run(JOB, tmp_path / "runs", _ignore)
    assert "--ckpt_path" not in (folder / "arguments").read_text()
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "previous.ckpt").touch()
    jobs.run(JOB, tmp_path / "runs", _ignore)
    assert f"--ckpt_path {folder / 'checkpoints'}" in (folder / "arguments").read_text()


def test_a_failed_training_is_a_result_with_its_status_and_is_tried_again(
    tmp_path: Path, child: Any
) -> None:
    child(
        'summary = {"status": "solver_failed", "hint": "raise max_steps"}\n'
        '(folder / "summary.json").write_text(json.dumps(summary)); sys.exit(3)\n'
    )
    result = jobs.run(JOB, tmp_path / "runs", _ignore)
    assert (result.status, result.hint) == ("solver_failed", "raise max_steps")
    child(DONE)
    assert jobs.run(JOB, tmp_path / "runs", _ignore).status == "ok"


def test_a_killed_training_is_told_from_one_that_failed(tmp_path: Path, child: Any) -> None:
    child("os.kill(os.getpid(), signal.SIGKILL)\n")
    result = jobs.run(JOB, tmp_path / "runs", _ignore)
    assert result.status == "killed"
    assert str(int(signal.SIGKILL)) in result.hint


def test_an_unforeseen_error_gives_its_last_line(tmp_path: Path, child: Any) -> None:
    child("raise RuntimeError('out of luck')\n")
    result = jobs.run(JOB, tmp_path / "runs", _ignore)
    assert (result.status, result.hint) == ("error", "RuntimeError: out of luck")


def test_settings_that_are_refused_stop_everything(tmp_path: Path, child: Any) -> None:
    child("print('error: Key \"solvr\" is not expected'); sys.exit(2)\n")
    with pytest.raises(BadSettings, match=r"odenet.*solvr"):
        jobs.run(JOB, tmp_path / "runs", _ignore)


def test_progress_is_handed_on_while_the_child_runs(tmp_path: Path, child: Any) -> None:
    seen: list[dict[str, Any]] = []
    child(
        'state = {"phase": "train", "done": 1}\n'
        '(folder / "progress.json").write_text(json.dumps(state)); time.sleep(0.7)\n' + DONE
    )
    jobs.run(JOB, tmp_path / "runs", seen.append)
    assert {"phase": "train", "done": 1} in seen


def test_a_child_does_not_outlive_an_interrupted_parent(tmp_path: Path, child: Any) -> None:
    child("(folder / 'pid').write_text(str(os.getpid())); time.sleep(60)\n")
    pid_file = JOB.folder(tmp_path / "runs") / "pid"

    def interrupt(state: dict[str, Any]) -> None:
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run(JOB, tmp_path / "runs", interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_stale_summary_does_not_stand_for_a_run_that_died(tmp_path: Path, child: Any) -> None:
    folder = JOB.folder(tmp_path / "runs")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"status": "solver_failed", "hint": "old"}))
    child("os.kill(os.getpid(), signal.SIGKILL)\n")
    assert jobs.run(JOB, tmp_path / "runs", _ignore).status == "killed"


def test_a_summary_without_its_numbers_is_no_result(tmp_path: Path, child: Any) -> None:
    folder = JOB.folder(tmp_path / "runs")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"status": "ok"}')
    child(DONE)
    assert not jobs.run(JOB, tmp_path / "runs", _ignore).found


def test_a_run_that_is_found_keeps_the_provenance_of_its_training(
    tmp_path: Path, child: Any
) -> None:
    process = '"process": {"threads": 7, "devices": ["cpu"], "precision": {"tf32_cudnn": False}}'
    child(DONE.replace('"parameters": 7', f'"parameters": 7, {process}'))
    first = jobs.run(JOB, tmp_path / "runs", _ignore, ("reproduce", "first"))
    second = jobs.run(JOB, tmp_path / "runs", _ignore, ("reproduce", "second"))
    assert first.made == second.made
    assert second.made["command"] == "python -m reproduce first"
    assert second.made["precision"] == {"tf32_cudnn": False}
    assert first.device == second.device == "cpu, 7 threads"


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            """usage: x
error: Parser key "trainer.max_epochs":
  Does not validate against any of the Union subtypes
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: abc""",
            "Parser key \"trainer.max_epochs\": Expected a <class 'int'> Given value: abc",
        ),
        (
            """error: of an earlier call
error: Does not validate against any of the Union subtypes
Errors:
  - batch_size is 0. Choose a number.
Given value: Namespace(class_path='datamodules.MNIST', init_args=Namespace(root=None))""",
            "batch_size is 0. Choose a number.",
        ),
        (
            'error: Parser key "model":\n'
            "Problem with given class_path 'lightning_modules.ImageClassifier':\n"
            """Parser key "body": Expected a typing.Literal['mlp', 'ode']. Got value: odee""",
            """Parser key "body": Expected one of 'mlp', 'ode'. Got value: odee""",
        ),
    ],
)
def test_a_refusal_is_told_by_its_reason(printed: str, reason: str) -> None:
    assert refusals.last(printed.splitlines()) == reason


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("model.solvr.rtol", "Did you mean model.solver.rtol"),
        ("model.init_args.widht", "model.width"),
        ("data.batchsize", "data.batch_size"),
        ("data.xyzzy.q", "data.root"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest_names(key: str, hint: str) -> None:
    with pytest.raises(BadSettings, match=rf"row odenet: there is no setting {key}.*{hint}"):
        jobs.check([replace(JOB, overrides={key: 1})])


def test_a_group_is_no_setting() -> None:
    with pytest.raises(
        BadSettings, match=r"model\.solver is a group of settings. Set model\.solver"
    ):
        jobs.check([replace(JOB, overrides={"model.solver": 5})])


def test_settings_are_checked_for_every_row_before_one_is_trained() -> None:
    fits = replace(JOB, overrides={"model.solver.rtol": 1e-4})
    jobs.check([fits])
    named = Job("spiral", "path", "spiral_path.yaml", {"model.solver.method": "rk45"}, 0, 1)
    with pytest.raises(BadSettings, match=r"row path: .*has no method 'rk45'\. Choose one of"):
        jobs.check([named])
    narrow = replace(JOB, row="small", overrides={"model.width": 10})
    with pytest.raises(BadSettings, match=r"row small: .*divisible by num_groups"):
        jobs.check([fits, narrow])
