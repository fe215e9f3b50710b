"""The suite's command line: refusals in one line, and Table 1 from one end to the other."""

import math
import re
import shlex
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from reproduce import provenance, records, train
from reproduce.__main__ import main
from reproduce.arguments import build_parser
from reproduce.catalogue import names
from reproduce.context import Context
from reproduce.experiments import ablations, step_time, table1
from reproduce.jobs import BadSettings
from reproduce.records import Record
from reproduce.regenerate import build_context, in_a_file_name

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
        (["table1", "--set", "data.root=x"], "use --data-root"),
        (["table1", "--set", "data.init_args.root=x"], "use --data-root"),
        (["table1", "--set", "model.stem=[1"], "no YAML value"),
        (["table1", "--set", "model.stem=1:"], "no YAML value"),
        (["table1", "--set", "model.stem=0x_"], "no YAML value"),
        (["table1", "--set", "model.stem=&a [*a]"], "no YAML value"),
        (["table1", "--set", "model.stem=!!bool q"], "no YAML value"),
        (["step-time", "--devices-per-run", "2"], "reads no --devices-per-run"),
        (["table1", "--devices-per-run", "0"], "--devices-per-run 0"),
        (["list", "table1"], "stands alone"),
        (["step_time", "--seeds", "3"], "reads no --seeds"),
        (["step_time", "--seed", "3"], "reads no --seed"),
        (["table1", "step_time", "--seed", "3"], "step_time reads no --seed"),
        (["compare", "decay", "--seed", "3"], "compare reads no --seed"),
        (["table1", "--only", "odenet"], "table1 reads no --only"),
        (["benchmark", "step_time", "--only", "cnf"], "step_time reads no --only"),
        (["compare", "--only", "cnf"], "compare reads no --only"),
        (["benchmark", "--device", "cpu", "--only", "cnf", "--report-only"], "leave --only out"),
        (["benchmark", "--device", "cpu", "--only", ""], "--only '': give names"),
        (["benchmark", "--device", "cpu", "--only", "cnf,"], "--only 'cnf,': give names"),
        (["table1", "--seed", "-1"], "--seed -1"),
        (["table1", "--out", ""], "--out '': give a folder"),
        (["status", "--out", ""], "--out '': give a folder"),
        (["table1", "--data-root", ""], "--data-root '': give a folder"),
        (["table1", "--seed", "1", "--seeds", "2"], "give one of them"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_no_experiment_measures_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    arguments = build_parser().parse_args(["step_time", "--profile", "smoke", "--device", "cpu"])
    build_context(step_time, arguments, [])
    assert not torch.backends.cudnn.allow_tf32


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


def test_a_figure_that_lacks_its_rows_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = records.read(README.parent / "results" / "decay" / "short.csv")
    half = [row for row in shipped if row.row == "euler"]
    records.append(tmp_path / "decay" / "short.csv", half)
    given = ["decay", "--profile", "short", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*given, "--report-only"]) == 2
    shown = capsys.readouterr().err
    assert "without --report-only" in shown
    assert shown.count("\n") == 1


def test_one_seed_is_asked_for_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def run(ctx: Context) -> list[Record]:
        asked.append(ctx.seeds)
        raise BadSettings("enough")

    monkeypatch.setattr("reproduce.experiments.spiral.run", run)
    given = ["spiral", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    for flags in (["--seed", "7"], ["--seeds", "2"], []):
        assert main([*given, *flags]) == 2
    assert asked == [(7,), (0, 1), (0,)]


def test_only_the_rows_of_the_seed_asked_for_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = records.read(README.parent / "results" / "adaptive_error" / "short.csv")
    records.append(tmp_path / "adaptive_error" / "short.csv", shipped)
    given = ["adaptive-error", "--profile", "short", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*given, "--report-only", "--seed", "3"]) == 0
    assert "1 seed, short" in capsys.readouterr().out
    assert main([*given, "--report-only", "--seed", "77"]) == 2
    assert "no rows of seed 77" in capsys.readouterr().err


def test_list_tells_every_experiment_with_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("table1  ") and "ODE-Net" in line for line in shown)
    assert all(line.split("  ")[0] in names() for line in shown)


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
    solved = {r.row for r in rows if "native dopri5" in r.budget}
    assert solved == {"rknet", "odenet"}
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
    printed = (smoke / "printed.txt").read_text().splitlines()
    assert printed[0].startswith("table1: profile smoke, cpu")
    assert "about 1 min" in printed[0]
    errors = {r.row: r.value for r in rows if r.metric == "test_error"}
    for row, paper in (("mlp", "1.60"), ("resnet", "0.41"), ("rknet", "0.47"), ("odenet", "0.42")):
        line = next(text for text in printed if text.split(" | ")[0].strip() == row)
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[1] == "test_error [%]"
        assert cells[2] == f"{errors[row]:.2f} (1 seed, smoke)"
        assert cells[4].startswith(paper)


def test_the_provenance_tells_that_the_training_did_not_round_to_tf32(smoke: Path) -> None:
    runs = provenance.read(smoke / "table1" / "smoke.csv")
    assert len(runs) == len(table1.ROWS)
    assert {entry["precision"]["tf32_cudnn"] for entry in runs.values()} == {False}


def test_the_same_command_again_trains_nothing_and_keeps_the_rows(
    smoke: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (smoke / "table1" / "smoke.csv").read_bytes()
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(smoke)]
    assert main([*arguments, "--data-root", mnist_root]) == 0
    assert f"5 of {len(table1.ROWS)} trainings have their rows" in capsys.readouterr().out
    assert (smoke / "table1" / "smoke.csv").read_bytes() == before


def test_runs_that_are_finished_come_back_as_rows_where_those_were_lost(
    smoke: Path,
    mnist_root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REPRODUCE_RUNS", str(smoke / "runs"))
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*arguments, "--data-root", mnist_root]) == 0
    assert capsys.readouterr().out.count("not trained again") == len(table1.ROWS)
    lost, again = (records.read(out / "table1" / "smoke.csv") for out in (smoke, tmp_path))
    assert [(r.run, r.metric, r.value) for r in lost] == [
        (r.run, r.metric, r.value) for r in again
    ]


def test_the_report_is_redrawn_from_the_rows_alone(
    smoke: Path,
) -> None:
    figure = smoke / "table1" / "smoke.svg"
    before = figure.read_bytes()
    figure.unlink()
    arguments = ["table1", "--profile", "smoke", "--out", str(smoke), "--report-only"]
    assert main(arguments) == 0
    assert figure.read_bytes() == before


def test_a_figure_is_of_all_rows_that_there_are_not_of_the_last_calls_alone(
    smoke: Path, tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table1" / "smoke.csv"
    rows = records.read(smoke / "table1" / "smoke.csv")
    records.append(path, [*rows, *(replace(row, seed=1, run="f" * 12) for row in rows)])
    drawn: list[records.Record] = []
    monkeypatch.setattr(table1, "plot", lambda rows: (drawn.extend(rows), Figure())[1])
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*arguments, "--data-root", mnist_root, "--seed", "0"]) == 0
    assert {row.seed for row in drawn} == {0, 1}


def test_a_table_has_one_line_for_every_row(smoke: Path) -> None:
    table = table1.table(records.read(smoke / "table1" / "smoke.csv"))
    assert list(table.index) == list(table1.ROWS)
    assert table.loc["resnet", "parameters"] == 601_482


def test_a_setting_that_no_model_has_stops_before_anything_is_trained(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["table1", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*arguments, "--data-root", mnist_root, "--set", "model.solvr.rtol=1"]) == 2
    assert "Did you mean model.solver.rtol" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "table1" / "smoke.csv").exists()


def test_a_folder_that_cannot_be_written_is_found_out_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["table1", "--device", "cpu", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smoke.csv", "smoke.provenance.json"])
def test_a_damaged_file_is_found_out_before_anything_is_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(ctx: Context) -> list[Record]:
        raise AssertionError("it was measured")

    monkeypatch.setattr(step_time, "run", run)
    (tmp_path / "step_time").mkdir()
    (tmp_path / "step_time" / name).write_text("{")
    given = ["step-time", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main(given) == 1
    assert str(tmp_path / "step_time" / name) in capsys.readouterr().err


def test_no_figure_is_drawn_where_no_row_is_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = records.read(README.parent / "results" / "step_time" / "short.csv")
    failed = [replace(row, value=math.nan, status="diverged", profile="smoke") for row in shipped]
    records.append(tmp_path / "step_time" / "smoke.csv", failed)
    monkeypatch.setattr(step_time, "run", lambda ctx: failed)
    given = ["step-time", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main(given) == 1
    assert "No figure: none of them is ok; see their column hint" in capsys.readouterr().out
    assert not list((tmp_path / "step_time").glob("*.png"))


def test_sigterm_is_told_as_ctrl_c_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Workers that share the tests out ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        monkeypatch.setattr(step_time, "run", lambda ctx, n=number: signal.raise_signal(n))
        given = ["step-time", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
        assert main(given) == status
        told.append(capsys.readouterr().out)
    signal.signal(signal.SIGINT, before)
    assert told[0] == told[1]
    assert "Interrupted. Written rows are kept" in told[0]


def test_a_report_without_rows_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table1", "--device", "cpu", "--out", str(tmp_path), "--report-only"]) == 2
    assert "Leave --report-only out" in capsys.readouterr().err


def test_figures_of_different_changes_have_different_names() -> None:
    changes = ("model.optimizer.lr=1e-30", "model.optimizer.lr=1e+30", "model.optimizer.lr=1e30")
    assert len({in_a_file_name(change) for change in changes}) == len(changes)
    assert in_a_file_name("model.stem=../../x y") == "model.stem=.._.._x_y"


def test_readme_has_its_two_commands_on_the_first_screen() -> None:
    first_screen = README.read_text().splitlines()[:20]
    assert "pip install -e . && python -m reproduce table1" in first_screen
    assert 'pip install -e ".[test]" && pytest -n 2 --dist loadfile' in first_screen


def _readme(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_readmes_commands_are_ones_that_the_parsers_take(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split("#")[0] for block in _readme("bash") for line in block.splitlines()]
    parts = [part for line in lines for part in re.split("&&|;", line)]
    commands = [shlex.split(part) for part in parts if "python -m" in part]
    ours = [words[3:] for words in commands if words[2] == "reproduce"]
    training = [words[3:] for words in commands if words[2] == "reproduce.train"]
    by_hand = [shlex.split(line) for line in lines if line.startswith("torchrun")]
    training += [words[words.index("reproduce.train") + 1 :] for words in by_hand]
    assert len(ours) >= 6
    assert len(training) >= 3
    for words in ours:
        build_parser().parse_args(words)
    monkeypatch.chdir(README.parent)
    for words in training:
        extra = [] if {"--print_config", "--model.help"} & set(words) else ["--print_config"]
        monkeypatch.setattr(sys, "argv", ["reproduce.train", *words, *extra])
        with pytest.raises(SystemExit) as stop:
            train.main()
        assert stop.value.code == 0, capsys.readouterr().err


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in _readme("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "0.0067" in capsys.readouterr().out


def test_the_readmes_table_is_the_shipped_one() -> None:
    lines = README.read_text().splitlines()
    for experiment in (table1, ablations):
        name = experiment.__name__.rpartition(".")[2]
        shipped = records.read(README.parent / "results" / name / "short.csv")
        for row in experiment.ROWS:
            errors = [r.value for r in shipped if (r.row, r.metric) == (row, "test_error")]
            size = next(r.value for r in shipped if (r.row, r.metric) == (row, "parameters"))
            error = f"{statistics.fmean(errors):.2f} ± {statistics.stdev(errors):.2f} %"
            line = next(text for text in lines if text.startswith(f"| `{row}` | {error} |"))
            assert len(errors) == 5
            assert f"| {size:,} |" in line


def test_the_readmes_ratios_are_the_shipped_ones() -> None:
    shipped = records.read(README.parent / "results" / "step_time" / "short.csv")
    ratio = {r.row: f"{r.value:.2f}" for r in shipped if r.metric == "ratio"}
    text = README.read_text()
    for line in (
        f"| `direct` | {ratio['torchdiffeq_direct']} | {ratio['native_direct']} |",
        f"| `checkpoint` | | {ratio['native_checkpoint']} |",
        f"| `adjoint` | {ratio['torchdiffeq_adjoint']} | {ratio['native_adjoint']} |",
        f"evaluates them, take {ratio['convolution_floor']}.",
    ):
        assert line in text
    flows = records.read(README.parent / "results" / "flow_checks" / "short.csv")
    ratio = {r.row: r.value for r in flows if r.metric == "ratio"}
    assert f"it takes {ratio['iteration_native']:.3f}\nof the time" in text
    assert f"side by side {ratio['members_cnf']:.1f} times that of one" in text
    gaps = records.read(README.parent / "results" / "fig5" / "short.csv")
    means = [
        statistics.fmean(r.value for r in gaps if (r.row, r.metric) == (row, "nll_gap"))
        for row in ("nf_moons", "cnf_moons")
    ]
    assert f"{means[0]:.3f} against {means[1]:.3f} nats" in text
    energies = records.read(README.parent / "results" / "fig4" / "short.csv")
    divergence = {(r.row, r.seed): r.value for r in energies if r.metric == "kl"}
    for name in ("u1_2", "u1_4", "u1_8", "u3_2", "u3_4", "u3_8", "u4_2", "u4_4", "u4_8"):
        deep, cnf = (
            statistics.fmean(divergence[f"{kind}_{name}", seed] for seed in range(5))
            for kind in ("nf_deep", "cnf")
        )
        assert deep < cnf
    costs = records.read(README.parent / "results" / "costs" / "quick.csv")
    per_step = {r.row: r.value for r in costs if r.metric == "memory_per_step"}
    state = next(r.value for r in costs if r.metric == "state")
    assert per_step["adjoint"] * 2**20 <= 8  # the ends of some thousand steps are made at once
    assert round(per_step["checkpoint"] / state, 2) == 1
    assert round(per_step["direct"] / state) == 5


def test_the_readmes_ratios_to_other_libraries_are_the_shipped_ones() -> None:
    shipped = records.read(README.parent / "results" / "benchmark" / "short.csv")
    found = {(r.row, r.metric): r.value for r in shipped if r.status == "ok"}
    lines = README.read_text().splitlines()
    for name in ("diffrax", "torchdiffeq", "torchode", "TorchDyn"):
        for said, work in (("step", "step"), ("solve alone", "forward")):
            cells = []
            for problem in ("cnf", "latent", "spiral", "odenet"):
                row, metric = f"{problem}_vs_{name.lower()}", f"{work}_ratio"
                over_sessions = (row, f"{metric}_sessions") in found
                metric += "_sessions" if over_sessions else ""
                value, low, high = (found[row, metric + end] for end in ("", "_low", "_high"))
                star = "\\*" if over_sessions else ""
                cells.append(f"{value:.2f} ({low:.2f} to {high:.2f}){star}")
            assert f"| {said}, {name} | {' | '.join(cells)} |" in lines


def test_the_readmes_errors_of_table_2_are_the_shipped_ones() -> None:
    shipped = records.read(README.parent / "results" / "table2" / "short.csv")
    text = README.read_text()
    for points in (30, 50, 100):
        values = [
            [r.value for r in shipped if (r.row, r.metric) == (f"{network}_{points}", "rmse")]
            for network in ("rnn", "rnn_gap", "latent_ode")
        ]
        assert all(len(found) == 5 for found in values)
        means = " | ".join(f"{statistics.fmean(found):.3f}" for found in values)
        extremes = f"({min(values[2]):.3f} to {max(values[2]):.3f})"
        assert f"| {points} | {means} {extremes} |" in text
    moved = records.read(README.parent / "results" / "fig9" / "short.csv")
    lines = {(r.row, r.metric): r.value for r in moved}
    told = " ".join(text.split())
    assert f"flips {lines['line', 'flips']:.0f} times on the line between the mean z0" in told
    assert f"once on {100 * lines['pairs', 'flips_once']:.0f} % of the lines" in told
    assert f"(`fig9`, {lines['pairs', 'count']:.0f} pairs)" in told
    steps = records.read(README.parent / "results" / "latent_step" / "short.csv")
    ratio = {r.row: r.value for r in steps if r.metric == "ratio"}
    assert f"{ratio['native']:.2f} of the authors' public example" in text
    assert f"{ratio['native_1e-5']:.2f} as `table2` trains" in text


def test_the_readmes_numbers_of_the_demonstrations_are_the_shipped_ones() -> None:
    text = " ".join(README.read_text().split())
    results = README.parent / "results"
    steps = records.read(results / "million_steps" / "short.csv")
    million = {(r.row, r.metric): r.value for r in steps}
    assert f"need {million['direct', 'needs_1000000']:.0f} GiB by back-propagation" in text
    assert f"{million['checkpoint', 'needs_1000000']:.0f} GiB by checkpoints" in text
    assert f"needs {million['direct_small', 'needs_1000000']:.1f} GiB, which" in text
    assert f"the adjoint takes {million['adjoint', 'memory_1000000']:.1f} MiB" in text
    found = records.read(results / "springs" / "short.csv")
    horizons = {
        row: [r.value for r in found if (r.row, r.metric) == (row, "horizon")]
        for row in ("physics", "neural_ode", "network")
    }
    assert all(len(values) == 5 for values in horizons.values())
    physics, learned, network = (statistics.fmean(values) for values in horizons.values())
    assert f"foretell them for {physics:.1f} more" in text
    assert f"learns the field for {learned:.1f}, a network of time for {network:.2f}" in text
    least, most = min(horizons["neural_ode"]), max(horizons["neural_ode"])
    assert f"from {least:.1f} to {most:.0f}." in text
    fields = records.read(results / "toy_field" / "short.csv")
    cycles = next(r.value for r in fields if (r.row, r.metric) == ("cycle", "count_later"))
    assert f"{cycles:.0f} of 1,000 draws end in a limit cycle" in text


def test_without_a_display_the_figure_is_named_and_the_command_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    given = ["latent-step", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*given, "--show"]) == 0
    figure = tmp_path / "latent_step" / "smoke.png"
    assert f"there is no display here. Open {figure}" in capsys.readouterr().out
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("PIL.Image.Image.show", lambda image: shown.append(image.size))
    assert main([*given, "--report-only", "--show"]) == 0
    assert len(shown) == 1
