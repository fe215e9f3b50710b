"""Solver libraries behind one signature: the closed form, the same fields, reasons to skip."""

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from host_recorder import HostRecorder, recorders

from reproduce.peers import ALTERNATIVES, LIBRARIES, ON, Skip, prepare
from reproduce.peers.base import Array
from reproduce.problems import PROBLEMS, Problem, build
from reproduce.problems.exact import exact, relative
from reproduce.problems.twins import twin

__all__ = ["recorders"]
SMALL = {"cnf": {"batch": 5, "width": 3}, "latent": {"batch": 3}, "odenet": {"batch": 2}}
WRITTEN_TWICE = [name for name in PROBLEMS if name != "own"]
HERE = [a for a in ALTERNATIVES if ON.get(a) != "cuda" and a != "ours_unfactored"]
# Compiling a step for JAX takes seconds; one of its adjoints does for this.
STEPS = [a for a in HERE if a not in ("diffrax_backsolve", "diffrax_each")]


def _there(alternative: str) -> None:
    library = alternative.split("_")[0]
    if library != "ours":
        pytest.importorskip(library)


def _small(name: str) -> Problem:
    return build(name, **SMALL.get(name, {"batch": 3}))


def _closed_form(problem: Problem) -> Array:
    """Solve the pairs, x + iv, each of which is multiplied by exp((-a + iw) t)."""
    x, v = problem.start().detach().chunk(2, dim=1)
    rate = torch.complex(-problem.field.rates, problem.field.speeds).detach()
    end = torch.complex(x, v) * torch.exp(rate * problem.times[-1])
    found: Array = torch.cat([end.real, end.imag], dim=1).numpy()
    return found


@pytest.mark.parametrize("alternative", HERE)
def test_every_alternative_follows_the_closed_form(alternative: str) -> None:
    _there(alternative)
    problem = build("linear", batch=3, state=4)
    peer = prepare(alternative, problem)
    states = peer.states(1e-8)
    assert states.shape == (2, 3, 4)
    assert relative(states[-1], _closed_form(problem)) < 1e-6
    assert relative(peer.states(1e-3)[-1], _closed_form(problem)) > 1e-6


@pytest.mark.parametrize("alternative", STEPS)
def test_every_alternative_takes_the_gradient_and_tells_its_steps(alternative: str) -> None:
    _there(alternative)
    problem = build("linear", batch=3, state=2)
    true = prepare("ours_direct", problem).gradient(1e-9)
    peer = prepare(alternative, problem)
    assert relative(peer.gradient(1e-6), true) < 1e-3
    shares = peer.shares(1e-6)
    told = {"compiled_share", "bare_share"} if alternative == "ours_compiled" else set()
    assert set(shares) == told
    assert all(0 < share < 1 for share in shares.values())
    loose, tight = peer.counts(1e-3), peer.counts(1e-6)
    assert 1 < loose.steps < tight.steps
    assert tight.nfe_forward == pytest.approx(2 + 6 * tight.steps)
    memory = peer.memory(1e-3)
    assert memory is None if alternative.endswith("compiled") else 0 < (memory or 0) < 10


def _written_twice(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return a problem in float64, the same in jax.numpy, and the weights of both."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    problem = _small(name).double()
    written = twin(problem)
    assert written is not None
    weights = {n: t.detach().numpy() for n, t in problem.state_dict().items()}
    return problem, written, weights


@pytest.mark.parametrize("name", WRITTEN_TWICE)
def test_a_field_in_jax_is_the_same_function_as_in_torch(name: str) -> None:
    problem, written, weights = _written_twice(name)
    draw = torch.Generator().manual_seed(0)
    for t in (0.0, 0.3):
        y = torch.randn(problem.start().shape, generator=draw, dtype=torch.float64)
        ours = problem.field(torch.tensor(t, dtype=torch.float64), y).detach().numpy()
        np.testing.assert_allclose(written.field(t, y.numpy(), weights), ours, 1e-6, 1e-6)


@pytest.mark.parametrize("name", WRITTEN_TWICE)
def test_what_is_before_and_behind_the_solve_is_the_same_too(name: str) -> None:
    problem, written, weights = _written_twice(name)
    y0, left = written.start(weights)
    np.testing.assert_allclose(y0, problem.start().detach().numpy(), 1e-6, 1e-6)
    draw = torch.Generator().manual_seed(0)
    shape = (len(problem.times), *problem.start().shape)
    ys = torch.randn(shape, generator=draw, dtype=torch.float64)
    loss = float(problem.loss(ys).detach())
    assert float(written.loss(ys.numpy(), left, weights)) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "spiral"])
def test_a_reference_agrees_with_scipy_or_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = _small(name)
    states, gradient = exact(problem)
    assert states.shape == (len(problem.times), *problem.start().shape)
    assert len(gradient) == sum(p.numel() for p in problem.parameters())
    if name == "linear":
        assert relative(states[-1], _closed_form(problem)) < 1e-11
    calls = 0
    forward = type(problem.field).forward

    def drifting(self: torch.nn.Module, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(self, t, y) * (1 + 1e-3 * (calls > 500))

    monkeypatch.setattr(type(problem.field), "forward", drifting)
    monkeypatch.setattr("lightning_modules.solvers.solve.is_factored", lambda field: False)
    with pytest.raises(RuntimeError, match="no reference"):
        exact(problem)


def test_a_field_whose_parts_are_known_is_measured_as_any_other_too() -> None:
    problem = _small("spiral")
    parts, called = (prepare(f"ours_{way}", problem) for way in ("direct", "unfactored"))
    assert (parts.fused, called.fused) == (True, False)  # type: ignore[attr-defined]
    assert called.counts(1e-5) == parts.counts(1e-5)
    assert relative(called.gradient(1e-5), parts.gradient(1e-5)) < 1e-5
    with pytest.raises(Skip, match="no parts that are known"):
        prepare("ours_unfactored", build("linear", batch=2))


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "ours"])
def test_a_library_that_is_not_there_is_a_reason_to_skip(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Skip, match=f"pip install {library}"):
        prepare(f"{library}_{LIBRARIES[library][0]}", build("linear", batch=2))


@pytest.mark.parametrize("alternative", ["ours_captured", "ours_tf32"])
def test_without_a_gpu_nothing_is_captured(alternative: str) -> None:
    with pytest.raises(Skip, match="this is a CPU"):
        prepare(alternative, build("linear", batch=2))


def test_what_is_recorded_for_all_tolerances_is_kept(recorders: list[HostRecorder]) -> None:
    """Rounds go through them in turn: where one is dropped, all are, and every call records."""
    from reproduce.experiments.benchmark import PROFILES
    from reproduce.peers.ours import Ours

    peer = Ours(build("linear", batch=2), "checkpoint", "captured")
    made = []
    for _ in range(3):
        for tolerance in PROFILES["paper"].overrides["tolerances"]:
            peer.forward(tolerance**0.25)  # as many, and quicker
            peer.step(tolerance**0.25)
        made.append(len(recorders))
    assert made[0] == 0 < made[1] == made[2]


@pytest.fixture
def rounding() -> Iterator[None]:
    """Leave it as it was: ours in TF32 sets it for its process, which is this one here."""
    products, convolutions = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("alternative", [a for a in ALTERNATIVES if ON.get(a) != "cpu"])
def test_on_a_gpu_every_alternative_takes_the_gradient(alternative: str, rounding: None) -> None:
    _there(alternative)
    if alternative.endswith("compiled") and shutil.which("gcc") is None:
        pytest.skip("torch.compile needs a C compiler")
    true = prepare("ours_direct", build("linear", batch=3, state=2)).gradient(1e-9)
    try:
        peer = prepare(alternative, build("linear", batch=3, state=2).cuda())
    except Skip as reason:  # JAX without CUDA
        pytest.skip(str(reason))
    for _ in range(3):  # ours captured records at the second, or fails
        assert relative(peer.gradient(1e-6), true) < 1e-3
        peer.states(1e-6)
    peer.evaluate(3)
    measured = peer.memory(1e-6)
    hidden = ON.get(alternative) == "cuda" or alternative.endswith("compiled")
    assert measured is None if hidden else (measured or 0) > 0


def test_fields_that_take_one_time_are_not_solved_apart() -> None:
    for alternative in ("torchode_each", "diffrax_each"):
        _there(alternative)
        with pytest.raises(Skip, match="one time for the whole batch"):
            prepare(alternative, _small("cnf"))


def test_an_unknown_problem_or_alternative_is_refused() -> None:
    with pytest.raises(ValueError, match="Choose one of ours_direct"):
        prepare("scipy_direct", build("linear", batch=2))
    with pytest.raises(ValueError, match="Choose one of linear"):
        build("lorenz")
    with pytest.raises(ValueError, match="give an even one"):
        build("linear", state=3)
