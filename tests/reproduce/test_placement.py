"""Where trainings run, from what the command line says."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reproduce import away, jobs, placement, ray_cluster, run_files
from reproduce.__main__ import main
from reproduce.context import Context
from reproduce.launchers import Slots


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("text", "devices", "visible", "expected"),
    [
        ("0,1,2,3", 1, None, [("0",), ("1",), ("2",), ("3",)]),
        ("3,1", 1, None, [("3",), ("1",)]),
        ("0,1,2,3", 2, None, [("0", "1"), ("2", "3")]),
        ("0,2", 2, "7,6,5,4", [("7", "5")]),
        ("1", 1, "GPU-a, GPU-b,GPU-c,GPU-d", [("GPU-b",)]),
    ],
)
def test_gpus_are_shared_out_by_the_numbers_that_torch_gives_them(
    text: str,
    devices: int,
    visible: str | None,
    expected: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = placement.choose("cuda", gpus=text, devices=devices)
    assert isinstance(chosen, Slots)
    assert [slot.gpus for slot in chosen.slots] == expected


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("slots", [None, 2])
def test_trainings_on_the_cpu_see_no_gpu(slots: int | None) -> None:
    chosen = placement.choose("cpu", slots=slots)
    assert isinstance(chosen, Slots)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in chosen.slots] == [""] * (
        slots or 1
    )


def test_a_training_on_a_gpu_sees_what_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    chosen = placement.choose("cuda")
    assert isinstance(chosen, Slots)
    assert chosen.slots[0].environment()["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "4"], "torch sees 4 GPU(s)"),
        (["--gpus", "0,0"], "every GPU once"),
        (["--gpus", "0,,1"], "as in 0,1,2,3"),
        (["--gpus", ""], "as in 0,1,2,3"),
        (["--gpus", "two"], "as in 0,1,2,3"),
        (["--gpus=-1"], "as in 0,1,2,3"),
        (["--gpus", "0,1,2", "--devices-per-run", "2"], "groups of --devices-per-run 2"),
        (["--gpus", "0", "--device", "cpu"], "on the CPU"),
        (["--gpus", "0", "--slots", "2"], "give one of them"),
        (["--gpus", "0", "--launcher", "ray"], "give one of them"),
        (["--slots", "2", "--device", "cuda"], "--gpus"),
        (["--slots", "0"], "--slots 0"),
        (["--num-nodes", "0"], "--num-nodes 0"),
        (["--num-nodes", "2", "--launcher", "ray"], "give one of them"),
        (["--num-nodes", "2", "--slots", "2", "--device", "cpu"], "give one of them"),
        (["--device", "cpu", "--set", "trainer.num_nodes=2"], "use --num-nodes"),
    ],
    ids=str,
)
def test_a_place_that_cannot_be_is_one_line(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table2", "--profile", "smoke", *flags]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_gpus_where_there_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["table2", "--gpus", "0"]) == 2
    assert "--gpus was asked for, but torch sees no GPU" in capsys.readouterr().err


def test_targets_without_trainings_read_no_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step-time", "--slots", "2"]) == 2
    assert "reads no --slots" in capsys.readouterr().err


def test_slots_share_the_threads_unless_the_user_has_told_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert placement.choose("cpu", slots=4).threads == 3
    assert placement.choose("cpu", slots=2, devices=3).threads == 2
    assert placement.choose("cpu", slots=20).threads == 1
    assert placement.choose("cpu").threads is None
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert placement.choose("cpu", slots=4).threads == 5


def test_several_nodes_are_refused_outside_of_slurm_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    given = ["table2", "--profile", "smoke", "--device", "cpu", "--num-nodes", "2"]
    assert main([*given, "--devices-per-run", "4"]) == 2
    shown = capsys.readouterr().err
    assert "torchrun --nnodes 2 --nproc-per-node 4" in shown
    assert shown.count("\n") == 1


def test_several_nodes_are_started_through_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    chosen = placement.choose("cuda", devices=4, nodes=2)
    assert isinstance(chosen, Slots)
    (slot,) = chosen.slots
    assert slot.prefix[:4] == ("srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4")
    with pytest.raises(ValueError, match=r"the SLURM allocation has 2 node"):
        placement.choose("cuda", devices=4, nodes=3)


def test_a_training_over_nodes_says_so_in_its_settings() -> None:
    ctx = Context("smoke", "cpu", "cpu, 1 threads", (0,), devices=2, nodes=3)
    assert ctx.processes == 6
    overrides = ctx.device_overrides()
    assert overrides["trainer.devices"] == 2
    assert overrides["trainer.num_nodes"] == 3
    assert overrides["trainer.strategy"] == "ddp"


def test_without_ray_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    monkeypatch.setenv("REPRODUCE_RUNS", str(tmp_path / "runs"))
    given = ["table2", "--profile", "smoke", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*given, "--launcher", "ray"]) == 1
    shown = capsys.readouterr().err
    assert 'pip install -e ".[ray]"' in shown
    assert shown.count("\n") == 1


def test_an_address_at_which_no_cluster_answers_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:port"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            with pytest.raises(ConnectionError, match=f"RAY_ADDRESS={address} .*ray start"):
                ray_cluster.connected()


def test_a_run_folder_survives_the_way_to_another_machine(tmp_path: Path) -> None:
    files = {
        "summary.json": b"{}",
        "metrics.csv": b"step",
        "checkpoints/last.ckpt": bytes(range(256)),
        "checkpoints/previous.ckpt": b"PK",
        "log.txt": b"",
    }
    run_files.unpack(files, tmp_path / "there")
    (tmp_path / "there" / ".lock").touch()
    assert run_files.pack(tmp_path / "there") == files
    assert run_files.pack(tmp_path / "nowhere") == {}


def test_a_run_is_finished_at_home_when_all_of_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def replace(source: Path, target: Path) -> None:
        written.append(target.name)
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    names = ["summary.json", "checkpoints/last.ckpt", "log.txt", "metrics.csv", "job.yaml"]
    run_files.unpack(dict.fromkeys(names, b""), tmp_path)
    assert written == ["job.yaml", "metrics.csv", "log.txt", "last.ckpt", "summary.json"]


def test_what_comes_home_failed_does_not_replace_what_another_command_has_finished(
    tmp_path: Path,
) -> None:
    job = jobs.Job("table1", "mlp", "mlp.yaml", {}, seed=0, protocol=1)
    folder = job.folder(tmp_path)
    failed = jobs.Result(job, Path("away"), "time_out", "longer")
    errand = (failed, {"summary.json": b'{"status": "time_out"}'}, 3.0)
    result, seconds = away.bring_home(errand, job, tmp_path)
    assert (result.status, result.folder, seconds) == ("time_out", folder, 3.0)
    done = '{"status": "ok", "metrics": {}, "cost": {}, "parameters": 7}'
    (folder / "summary.json").write_text(done)
    result, _ = away.bring_home(errand, job, tmp_path)
    assert (result.status, result.parameters) == ("ok", 7)
    assert (folder / "summary.json").read_text() == done


def test_a_file_that_another_command_has_just_removed_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step")
    gone = [tmp_path / "summary.json"]
    glob = Path.glob
    monkeypatch.setattr(
        Path, "glob", lambda self, what: gone if what == "*.json" else glob(self, what)
    )
    assert run_files.pack(tmp_path) == {"metrics.csv": b"step"}


@pytest.mark.parametrize(
    "name",
    ["../job.yaml", "/job.yaml", "a/summary.json", "checkpoints/../../x.json", ".lock", "run.py"],
)
def test_nothing_is_written_where_a_node_sends_what_is_no_file_of_a_run(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "run"
    with pytest.raises(ValueError, match="no file of a run folder"):
        run_files.unpack({"summary.json": b"{}", name: b"x"}, folder)
    assert not list(tmp_path.rglob("*"))
