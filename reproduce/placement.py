"""Chooses a launcher from what the command line says: GPUs, slots, nodes, a cluster."""

import os
import re
import shutil

from reproduce.launchers import Launcher, Slot, Slots

NO_GPUS: tuple[str, ...] = ()
"""What a training on the CPU sees: torch's optimizers ask at every update whether there is a GPU,
which is answered at once then, and otherwise by loading NVIDIA's driver, 0.3 ms."""


def choose(
    device: str,
    *,
    gpus: str | None = None,
    slots: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    cluster: bool = False,
    time_limit: float | None = None,
) -> Launcher:
    """Return what runs the trainings.

    Args:
        device: ``cpu`` or ``cuda``.
        gpus: GPUs to share out, by torch's numbers, as in ``0,1,2,3``.
        slots: Trainings side by side on the CPU.
        devices: Devices of one training, on each of its nodes.
        nodes: Nodes of one training.
        cluster: Whether a Ray cluster runs them.
        time_limit: Seconds that a training may take; None for as long as it takes.

    Raises:
        ValueError: If these do not go together, or do not fit this machine.
    """
    given = [
        f"--{name}" for name, value in (("gpus", gpus), ("slots", slots)) if value is not None
    ]
    if len(given) == 2:
        raise ValueError("--gpus and --slots: give one of them; --slots is for the CPU.")
    if given and (cluster or nodes > 1):
        other = "--launcher ray" if cluster else f"--num-nodes {nodes}"
        raise ValueError(f"{given[0]} and {other}: give one of them; each says where to train.")
    if cluster and nodes > 1:
        raise ValueError("--num-nodes and --launcher ray: give one of them.")
    if cluster:
        from reproduce.ray_launcher import RayLauncher

        return RayLauncher(device, devices, _told_threads() or 1, time_limit)
    if nodes > 1:
        return Slots((Slot(prefix=_srun(nodes, devices)),), time_limit)
    if gpus is not None:
        return Slots(_gpu_slots(device, gpus, devices), time_limit)
    if slots is not None:
        if device != "cpu":
            raise ValueError("--slots is for the CPU: name GPUs with --gpus, or add --device cpu.")
        return Slots((Slot(_threads(slots * devices), NO_GPUS),) * slots, time_limit)
    return Slots((Slot(gpus=NO_GPUS if device == "cpu" else None),), time_limit)


def _gpu_slots(device: str, text: str, devices: int) -> tuple[Slot, ...]:
    import torch

    if device != "cuda":
        raise ValueError(f"--gpus {text}: this run is on the CPU. Leave --gpus or --device out.")
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise ValueError(f"--gpus {text!r}: give numbers with commas between them, as in 0,1,2,3.")
    numbers = [int(number) for number in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--gpus {text}: give every GPU once.")
    seen = torch.cuda.device_count()
    if max(numbers) >= seen:
        raise ValueError(f"--gpus {text}: torch sees {seen} GPU(s), numbered from 0.")
    if len(numbers) % devices:
        raise ValueError(
            f"--gpus {text}: {len(numbers)} GPU(s) cannot be shared out in groups of "
            f"--devices-per-run {devices}."
        )
    # Where this process does not see all GPUs, torch's numbers are places in that list.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(seen)]
    chosen = [names[number].strip() for number in numbers]
    threads = _threads(len(numbers))
    return tuple(
        Slot(threads, tuple(chosen[first : first + devices]))
        for first in range(0, len(chosen), devices)
    )


def _srun(nodes: int, devices: int) -> tuple[str, ...]:
    """Return what starts a process for each device of each node of a SLURM allocation."""
    allocated = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise ValueError(
            f"--num-nodes {nodes}: this is no SLURM allocation. Submit the command with sbatch, "
            f"or start one training on every node by hand: torchrun --nnodes {nodes} "
            f"--nproc-per-node {devices} … -m reproduce.train run --config … (see the README)."
        )
    if allocated.isdigit() and int(allocated) < nodes:
        raise ValueError(f"--num-nodes {nodes}: the SLURM allocation has {allocated} node(s).")
    return (
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes * devices}",
        f"--ntasks-per-node={devices}",
        "--kill-on-bad-exit=1",  # the others would wait for a dead process for ever
    )


def _told_threads() -> int | None:
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) else None


def _threads(processes: int) -> int:
    """Return the threads of each of so many processes: as told, or an equal share of all."""
    import torch

    return _told_threads() or max(1, torch.get_num_threads() // processes)
