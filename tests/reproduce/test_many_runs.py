"""The same rows come out side by side and from a cluster that loses a node."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COSTS = ("train_seconds",)
SWEEP = ["spiral", "--profile", "smoke", "--device", "cpu", "--epochs", "150"]

pytestmark = pytest.mark.stress


def _start(out: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "reproduce", *SWEEP, *flags, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _rows(out: Path) -> set[tuple[str, ...]]:
    """The rows of a sweep but for what they cost, each as all its cells."""
    with open(out / "spiral" / "smoke.csv", encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] not in COSTS]
    return {tuple(line.values()) for line in lines}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, ...]]:
    """The rows of one training after another."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = _start(out)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    rows = _rows(out)
    assert len(rows) > 20
    return rows


def test_two_slots_give_the_rows_of_one(undisturbed: set[tuple[str, ...]], tmp_path: Path) -> None:
    process = _start(tmp_path, "--slots", "2")
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert "2 at a time" in printed
    assert _rows(tmp_path) == undisturbed


def test_a_cluster_that_loses_a_node_in_a_training_gives_the_same_rows(
    undisturbed: set[tuple[str, ...]], tmp_path: Path
) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    there = tmp_path / "victim"
    there.mkdir()
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        victim = cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(there)})
        address = {"RAY_ADDRESS": cluster.address}
        process = _start(tmp_path / "out", "--launcher", "ray", **address)
        try:
            _wait_for_a_training(there, process)
            cluster.remove_node(victim, allow_graceful=False)
            printed, _ = process.communicate(timeout=400)
        finally:
            process.kill()
        assert process.returncode == 0, printed
        assert "2 node(s)" in printed
        assert _rows(tmp_path / "out") == undisturbed
    finally:
        cluster.shutdown()


def _wait_for_a_training(folder: Path, process: subprocess.Popen[str]) -> None:
    """Return when a node is in the middle of a training."""
    give_up = time.monotonic() + 240
    while time.monotonic() < give_up and process.poll() is None:
        for path in folder.glob("reproduce-*/*/*/progress.json"):
            state = json.loads(path.read_text())
            if state["phase"] == "train" and 2 < state["done"] < 0.8 * state["total"]:
                return
        time.sleep(0.05)
    pytest.fail(f"no training was seen: {process.communicate()[0] if process.poll() else ''}")


def test_a_cluster_without_the_devices_is_one_line_and_no_wait(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = _start(tmp_path, "--launcher", "ray", "--devices-per-run", "1000")
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "takes 1000 CPU(s) and 0 GPU(s) of one Ray node" in printed
    assert "Traceback" not in printed
