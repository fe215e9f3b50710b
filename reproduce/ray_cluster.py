"""The Ray cluster that trains: how to reach it, and what its nodes have."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Check = Callable[[], None]
OWN_CODE = ("reproduce", "lightning_modules", "datamodules")


def connected() -> Any:
    """Return the module ``ray``, connected to the cluster of ``RAY_ADDRESS`` or to a local one.

    Raises:
        RuntimeError: If Ray is not installed.
        ConnectionError: If the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked to be counted
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(
            'Ray is not installed, which --launcher ray needs: pip install -e ".[ray]".'
        ) from error
    if not ray.is_initialized():
        _refuse_silence(os.environ.get("RAY_ADDRESS", ""))
        packages = [str(Path(__file__).parents[1] / name) for name in OWN_CODE]
        stop = signal.getsignal(signal.SIGTERM)
        ray.init(
            runtime_env={"py_modules": packages},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place
    return ray


@contextmanager
def stoppable() -> Iterator[Check]:
    """Hold SIGTERM back within the block, and yield what lets it act, between two calls of Ray.

    Within a call, Ray makes an error of its own of the exit that a handler asks for.
    """
    handler, came = signal.getsignal(signal.SIGTERM), threading.Event()
    if not callable(handler):  # the system's own, which asks nobody
        yield lambda: None
        return

    def stop_if_told() -> None:
        if came.is_set():
            handler(signal.SIGTERM, None)

    signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield stop_if_told
    finally:
        signal.signal(signal.SIGTERM, handler)
    stop_if_told()


def _refuse_silence(address: str) -> None:
    """Raise ConnectionError where nobody listens: Ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"No Ray cluster answers at RAY_ADDRESS={address} ({error}). Start one with ray start "
            "--head, or unset RAY_ADDRESS to train on this machine."
        ) from error


def refuse_without_room(ray: Any, need: Mapping[str, float]) -> None:
    """Raise RuntimeError where no node has these resources in all."""
    if not fits(ray, need):
        raise RuntimeError(
            f"A training takes {need['CPU']} CPU(s) and {need['GPU']} GPU(s) of one Ray node, and "
            f"there is none: {offers(ray)}. Start such a node, or change --device, "
            "--devices-per-run or OMP_NUM_THREADS."
        )


def fits(ray: Any, need: Mapping[str, float]) -> bool:
    """Tell whether some node has these resources in all, busy or not."""
    return any(all(node.get(k, 0) >= n for k, n in need.items()) for node in _nodes(ray))


def offers(ray: Any) -> str:
    """Return in words what the nodes have."""
    each = [f"{n.get('CPU', 0):g} CPU(s) and {n.get('GPU', 0):g} GPU(s)" for n in _nodes(ray)]
    return f"{len(each)} node(s) with {', '.join(each)}"


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
