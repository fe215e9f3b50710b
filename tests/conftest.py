"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mnist_root() -> str:
    """The folder of the real MNIST, fetched if need be: REPRODUCE_DATA, else the clone's data."""
    from datamodules import MNIST

    root = os.environ.get("REPRODUCE_DATA") or str(Path(__file__).parent.parent / "data")
    MNIST(root=root).prepare_data()
    return root
