"""One training over processes that torchrun or srun has started, as on several nodes."""

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = str(resources.files("reproduce") / "configs" / "latent_ode.yaml")
# Fixed steps, since each rank would adapt its own; sgd, since Adam forgets the gradient's size.
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--data.steps=3",
    "--data.train_size=20",
    "--data.test_size=20",
    "--data.batch_size=10",
    "--model.solver.method=rk4",
    "--model.solver.step_size=0.02",
    "--model.optimizer.name=sgd",
    "--trainer.gradient_clip_val=1.0",
    "--trainer.precision=64-true",
]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def _arguments(folder: Path, *more: str) -> list[str]:
    run = ["-m", "reproduce.train", "run", "--config", CONFIG, *SMALL, *more]
    return [*run, f"--trainer.default_root_dir={folder}"]


def _outcome(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    summary = json.loads((folder / "summary.json").read_text())
    path = folder / "checkpoints" / "last.ckpt"
    return summary["metrics"], torch.load(path, weights_only=True)["state_dict"]


def _assert_alike(one: Path, two: Path) -> None:
    (metrics, weights), (others, other_weights) = _outcome(one), _outcome(two)
    assert others == pytest.approx(metrics, rel=1e-9)
    for name, tensor in weights.items():
        assert torch.allclose(other_weights[name], tensor, rtol=1e-9, atol=1e-12), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same training in one process."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, *_arguments(folder)]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.stress
def test_two_torchrun_agents_train_as_one_process_does(alone: Path, tmp_path: Path) -> None:
    meeting = f"--rdzv-endpoint=127.0.0.1:{_free_port()}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", meeting, "--rdzv-id=test", "--local-addr=127.0.0.1"]
    ddp = ["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp"]
    command = [*torchrun, *_arguments(tmp_path / "run", *ddp)]
    agents = [
        subprocess.Popen(
            command,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for agent in agents:
        printed, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, printed
    _assert_alike(alone, tmp_path / "run")


# Starts its tasks on this machine, as many as it is told, with what the real one tells them.
SRUN = """
#!/usr/bin/env python3
import os, subprocess, sys
flags = dict(w[2:].split("=") for w in sys.argv[1:] if w.startswith("--") and "=" in w[:24])
command = sys.argv[next(i for i, w in enumerate(sys.argv) if i and not w.startswith("--")):]
nodes, each = int(flags["nodes"]), int(flags["ntasks-per-node"])
assert int(flags["ntasks"]) == nodes * each
given = {"SLURM_NTASKS": nodes * each, "SLURM_NTASKS_PER_NODE": each, "SLURM_NNODES": nodes,
         "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "test"}
tasks = []
for rank in range(nodes * each):
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each}
    env = {**os.environ, **{k: str(v) for k, v in {**given, **own}.items()}}
    tasks.append(subprocess.Popen(command, env=env))
open(os.environ["SRUN_CALLS"], "a").write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.stress
def test_a_slurm_allocation_of_two_nodes_trains_a_row_through_srun(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text(textwrap.dedent(SRUN).lstrip())
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    # As a batch script has them: it is itself the first task.
    batch = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    batch |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    batch |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "batch"}
    batch |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    batch |= {"MASTER_PORT": str(_free_port()), "SRUN_CALLS": str(tmp_path / "calls")}
    command = [
        sys.executable,
        "-m",
        "reproduce",
        "spiral",
        "--profile",
        "smoke",
        "--device",
        "cpu",
    ]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--num-nodes", "2"],
        env=_environment(**batch, REPRODUCE_RUNS=str(tmp_path / "runs")),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 4
    assert all("--nodes=2 --ntasks=2 --ntasks-per-node=1" in call for call in calls)
    rows = (tmp_path / "out" / "spiral" / "smoke.csv").read_text()
    assert "2 processes: cpu, 1 threads" in rows
