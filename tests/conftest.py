"""Fixtures that several test files share."""

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:  # before torch is imported: workers that all use all cores slow each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

os.environ.pop("REPRODUCE_RUNS", None)  # tests have run folders of their own

_ON_SIGTERM = signal.getsignal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def _sigterm() -> Iterator[None]:
    """Keep a handler that a command sets from tests: Lightning would set none of its own.

    Fixtures of a whole file, which come before this one, run commands too.
    """
    signal.signal(signal.SIGTERM, _ON_SIGTERM)
    yield
    signal.signal(signal.SIGTERM, _ON_SIGTERM)


@pytest.fixture(scope="session")
def mnist_root() -> str:
    """The folder of the real MNIST, fetched if need be: REPRODUCE_DATA, else the clone's data."""
    from datamodules import MNIST

    root = os.environ.get("REPRODUCE_DATA") or str(Path(__file__).parent.parent / "data")
    MNIST(root=root).prepare_data()
    return root


@pytest.fixture
def small_odenet(tmp_path: Path) -> Path:
    """A folder of results with the weights of a small, untrained ODE-Net and its curve."""
    import torch

    from lightning_modules import ImageClassifier
    from reproduce import evidence, weights

    torch.manual_seed(0)
    shape = {"body": "ode", "width": 8, "groups": 4}
    facts = {"row": "odenet", "seed": 0, "run": "0" * 12, "budget": "none"}
    net = ImageClassifier(**shape).net  # type: ignore[arg-type]
    path = tmp_path / "table1" / "weights" / "paper-odenet-seed0.safetensors"
    weights.save(path, net.state_dict(), {**facts, "hyper_parameters": shape})
    lines = [f"odenet,0,,{'0' * 12},{50 * (k + 1)},nfe_forward,{14 + 6 * k}" for k in range(5)]
    curves = tmp_path / "table1" / "curves" / "paper.csv"
    curves.parent.mkdir(parents=True)
    curves.write_text("\n".join([",".join(evidence.CURVE), *lines, ""]))
    return tmp_path


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a script in the place of ``python -m reproduce.train``.

    It knows its ``config``, its run ``folder``, and the ``summary`` of a training that ended well.
    """
    python = sys.executable

    def install(body: str) -> None:
        script, launcher = tmp_path / "child.py", tmp_path / "python"
        head = """
            import json, os, pathlib, signal, sys, time, yaml
            config = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))
            folder = pathlib.Path(config["trainer"]["default_root_dir"])
            summary = {"status": "ok", "metrics": {}, "cost": {}, "parameters": 7}
            """
        script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        launcher.write_text(f'#!/bin/sh\nshift 2\nexec {python} {script} "$@"\n')
        launcher.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(launcher))

    return install
