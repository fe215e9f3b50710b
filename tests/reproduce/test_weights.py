"""Shipped weights: small, exact where they can be, and never executed."""

from pathlib import Path

import pytest
import torch

from reproduce import weights


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
