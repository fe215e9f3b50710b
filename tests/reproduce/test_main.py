"""The suite's command line: refusals in one line, and Table 1 from one end to the other."""

import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import records
from reproduce.__main__ import main
from reproduce.experiments import table1

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tabel1"], "table1"),
        (["compare", "tabel1"], "table1"),
        (["table1", "--seeds", "0"], "--seeds 0"),
        (["table1", "--epochs", "-1"], "--epochs -1"),
        (["table1", "--set", "model.solver.rtol"], "KEY=VALUE"),
        (["table1", "--set", "solver.rtol=1"], "begin with model, data or trainer"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_cuda_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["table1", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_of_a_distributed_job_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    assert main(["table1"]) == 2
    assert "rank" in capsys.readouterr().err


def test_list_tells_every_experiment_with_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "table1" in (shown := capsys.readouterr().out)
    assert "ODE-Net" in shown


def test_the_budget_says_which_part_of_an_epoch_was_trained() -> None:
    def budget(batches: float | int, epochs: int = 1) -> str:
        return table1.budget(
            {
                "trainer": {"max_epochs": epochs, "limit_train_batches": batches},
                "data": {"init_args": {"batch_size": 128}},
                "model": {"init_args": {"schedule": {"name": "one_cycle"}}},
            }
        )

    assert budget(300) == "0.64 of an epoch (300 batches), batch 128, one cycle"
    assert budget(1.0) == "1 epoch, batch 128, one cycle"
    assert budget(1.0, 160) == "160 epochs, batch 128, one cycle"
    assert budget(0.5, 2) == "2 times 0.5 of an epoch (234 batches), batch 128, one cycle"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, mnist_root: str) -> Path:
    """The results of Table 1's smoke profile."""
    out = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "reproduce", "table1", "--profile", "smoke"]
    command += ["--device", "cpu", "--out", str(out), "--data-root", mnist_root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "printed.txt").write_text(done.stdout)
    return out


def test_table1_writes_rows_provenance_and_figure_and_prints_the_papers_numbers(
    smoke: Path,
) -> None:
    rows = records.read(smoke / "table1" / "smoke.csv")
    assert {r.row for r in rows} == set(table1.ROWS)
    assert {r.status for r in rows} == {"ok"}
    counts = {r.row: r.value for r in rows if r.metric == "parameters"}
    assert counts == {
        "mlp": 238_510,
        "mlp_deskewed": 238_510,
        "resnet": 601_482,
        "rknet": 232_970,
        "odenet": 232_970,
    }
    backward = {r.row: r.value for r in rows if r.metric == "train_nfe_backward"}
    assert backward["odenet"] >= 14
    assert backward["rknet"] == 0
    assert set(backward) == {"rknet", "odenet"}
    for name in ("smoke.provenance.json", "smoke.png", "smoke.svg"):
        assert (smoke / "table1" / name).stat().st_size > 500
    printed = (smoke / "printed.txt").read_text()
    first = printed.splitlines()[0]
    assert "smoke" in first
    assert "cpu" in first
    assert "min" in first
    for number in ("1.6", "0.41", "0.47", "0.42"):
        assert number in printed


def test_the_same_command_again_trains_nothing_and_keeps_the_rows(
    smoke: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (smoke / "table1" / "smoke.csv").read_bytes()
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(smoke)]
    assert main([*arguments, "--data-root", mnist_root]) == 0
    assert capsys.readouterr().out.count("not trained again") == len(table1.ROWS)
    assert (smoke / "table1" / "smoke.csv").read_bytes() == before


def test_the_report_is_redrawn_from_the_rows_alone(
    smoke: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = smoke / "table1" / "smoke.svg"
    before = figure.read_bytes()
    figure.unlink()
    arguments = ["table1", "--profile", "smoke", "--out", str(smoke), "--report-only"]
    assert main(arguments) == 0
    assert figure.read_bytes() == before


def test_a_table_has_one_line_for_every_row(smoke: Path) -> None:
    table = table1.table(records.read(smoke / "table1" / "smoke.csv"))
    assert list(table.index) == list(table1.ROWS)
    assert table.loc["resnet", "parameters"] == 601_482


def test_a_setting_that_no_model_has_stops_before_anything_is_trained(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*arguments, "--data-root", mnist_root, "--set", "model.solvr.rtol=1"]) == 1
    assert "solvr" in capsys.readouterr().err
    assert not (tmp_path / "table1").exists()


def test_readme_has_its_two_commands_on_the_first_screen() -> None:
    first_screen = README.read_text().splitlines()[:20]
    assert "pip install -e . && python -m reproduce table1" in first_screen
    assert 'pip install -e ".[test]" && pytest' in first_screen
