"""Shipped weights: small, exact where they can be, and never executed."""

from pathlib import Path

import pytest
import torch

from reproduce import restored, weights
from reproduce.records import Record


def test_small_networks_keep_every_bit(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40)}
    weights.save(tmp_path / "w" / "a.safetensors", state, {"row": "a", "seed": 3})
    loaded, facts = weights.load(tmp_path / "w" / "a.safetensors")
    assert facts == {"row": "a", "seed": 3}
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_large_networks_stay_under_a_megabyte_and_within_half_a_level(tmp_path: Path) -> None:
    state = {"conv.weight": torch.randn(64, 500, 3, 3), "conv.bias": torch.randn(64)}
    path = tmp_path / "big.safetensors"
    weights.save(path, state, {})
    assert path.stat().st_size < weights.LARGEST
    loaded, _ = weights.load(path)
    assert torch.equal(loaded["conv.bias"], state["conv.bias"])
    level = state["conv.weight"].flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1) / 127
    assert ((loaded["conv.weight"] - state["conv.weight"]).abs() <= 0.501 * level).all()


def test_a_parameter_may_be_called_scale(tmp_path: Path) -> None:
    state = {"n.weight": torch.randn(600, 500), "n.weight.scale": torch.randn(600)}
    weights.save(tmp_path / "s.safetensors", {"n.scale": torch.randn(3)}, {})
    assert set(weights.load(tmp_path / "s.safetensors")[0]) == {"n.scale"}
    with pytest.raises(ValueError, match=r"n\.weight\.scale"):
        weights.save(tmp_path / "t.safetensors", state, {})


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x10\0\0\0\0\0\0\0{}"])
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors holds no weights"):
        weights.load(path)


def test_weights_beside_rows_are_those_of_their_run_or_left_alone(tmp_path: Path) -> None:
    record = Record(
        experiment="fig7",
        row="net",
        metric="ks",
        value=0.1,
        unit="",
        seed=0,
        profile="short",
        protocol=1,
        budget="",
        overrides="",
        device="cpu",
        run="0123456789ab",
    )
    path = tmp_path / "weights" / "short-net.safetensors"

    def beside(run: str) -> object:
        # Of a class that takes other arguments: what is not of this run is not even built.
        weights.save(path, {"weight": torch.ones(1)}, {"run": run, "hyper_parameters": {"a": 1}})
        return restored.beside(tmp_path, [record], "net", torch.nn.Linear, lambda *both: both)

    assert beside("another") is None
    with pytest.raises(ValueError, match="does not fit the network"):
        beside(record.run)
