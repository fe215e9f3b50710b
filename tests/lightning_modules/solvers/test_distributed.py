"""Two processes: the same training as one, and the same steps where they share a norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from host_recorder import MADE, HostRecorder
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.solvers import SolverSettings, Step, collect_stats, odeint, watch_steps
from lightning_modules.solvers.captured import recording

UPDATES = 20
TOLERANCE = 1e-4
GRADIENTS = ("direct", "checkpoint", "adjoint")
ADAPTIVE = {"backend": "native", "rtol": TOLERANCE, "atol": TOLERANCE}
FIXED = {"backend": "native", "method": "rk4", "step_size": 0.25}
TRAININGS: dict[str, dict[str, Any]] = {
    **{kind: {**FIXED, "gradient": kind} for kind in GRADIENTS},
    **{
        f"captured {kind}": {**FIXED, "backend": "captured", "gradient": kind}
        for kind in ("checkpoint", "adjoint")
    },
    "torchdiffeq": {"method": "rk4_38", "step_size": 0.25, "gradient": "adjoint"},
}


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = t.expand(len(y), 1)
        return self.second(torch.tanh(self.first(torch.cat([time, y], dim=1))))


class Model(nn.Module):
    """A layer and an ODE block, as in a classifier."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.field = nn.Linear(2, 2), Field()
        self.double()
        self.settings = SolverSettings(**settings)

    def forward(self, x: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=x.dtype)
        return odeint(self.field, self.stem(x), times, self.settings).ys[-1].pow(2).mean()


def batch() -> Tensor:
    """Two halves so unlike that each, on its own, chooses other steps."""
    noise = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return noise * torch.tensor([1.0, 6.0]).repeat_interleave(8)[:, None]


def train(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(UPDATES):
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()


def gradient(model: nn.Module, x: Tensor) -> list[Tensor]:
    model(x).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def steps_taken(x: Tensor, **settings: Any) -> list[tuple[float, float, bool]]:
    seen: list[Step] = []
    with watch_steps(seen.append):
        DistributedDataParallel(Model(**settings))(x).backward()
    return [(step.t, step.dt, step.accepted) for step in seen]


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, found = batch().chunk(2)[rank], {}
    recording.RECORDERS["cpu"] = HostRecorder  # this process is the test's own
    for name, settings in TRAININGS.items():
        model = DistributedDataParallel(Model(**settings))
        train(model, x)
        found[f"weights {name}"] = [p.detach() for p in model.parameters()]
    for kind in GRADIENTS:
        found[f"gradient {kind}"] = gradient(
            DistributedDataParallel(Model(**ADAPTIVE, gradient=kind)), x
        )
        for sync in (False, True):
            found[f"steps {kind} {sync}"] = steps_taken(
                x, **ADAPTIVE, gradient=kind, sync_norm=sync
            )
    found["replays"] = torch.tensor([recorder.replays for recorder in MADE])
    found["steps torchdiffeq"] = evaluations_of_torchdiffeq(x)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def evaluations_of_torchdiffeq(x: Tensor) -> list[float]:
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.sin(y) * y

    odeint(field, x, torch.tensor([0.0, 1.0]), SolverSettings(rtol=TOLERANCE, sync_norm=True))
    return seen


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not dist.is_gloo_available():
        pytest.skip("needs gloo")
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_like_one_with_fixed_steps(
    ranks: list[dict[str, Any]], name: str
) -> None:
    model = Model(**TRAININGS[name])
    initial = [p.detach().clone() for p in model.parameters()]
    train(model, batch())
    for n, (parameter, before) in enumerate(zip(model.parameters(), initial, strict=True)):
        assert float((parameter - before).detach().abs().max()) > 1e-3
        for rank in ranks:
            after = rank[f"weights {name}"][n]
            torch.testing.assert_close(after, parameter.detach(), rtol=0, atol=1e-10)


def test_recorded_solves_were_replayed_under_ddp(ranks: list[dict[str, Any]]) -> None:
    assert all(len(rank["replays"]) == 3 and rank["replays"].all() for rank in ranks)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_two_processes_agree_with_one_within_the_tolerance(
    ranks: list[dict[str, Any]], kind: str
) -> None:
    whole = torch.cat([g.flatten() for g in gradient(Model(**ADAPTIVE, gradient=kind), batch())])
    for rank in ranks:
        found = torch.cat([g.flatten() for g in rank[f"gradient {kind}"]])
        assert float((found - whole).norm()) < 10 * TOLERANCE * float(whole.norm())


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_shared_norm_gives_every_rank_the_same_steps(
    ranks: list[dict[str, Any]], kind: str
) -> None:
    apart, joint = ([rank[f"steps {kind} {sync}"] for rank in ranks] for sync in (False, True))
    assert joint[0] == joint[1]
    assert apart[0] != apart[1]


def test_torchdiffeq_takes_the_shared_norm_too(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["steps torchdiffeq"] == ranks[1]["steps torchdiffeq"]


def test_a_process_on_its_own_ignores_the_shared_norm() -> None:
    found = []
    for sync in (False, True):
        with collect_stats() as gathered:
            grads = gradient(Model(**ADAPTIVE, gradient="checkpoint", sync_norm=sync), batch())
        found.append((gathered, [grad.tolist() for grad in grads]))
    assert found[0] == found[1]


def test_a_shared_norm_without_an_error_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sync_norm=True given with 'rk4'.*read no norm"):
        Model(**FIXED, sync_norm=True)(batch())
    with pytest.raises(ValueError, match="sync_norm is 1"):
        SolverSettings(sync_norm=1)  # type: ignore[arg-type]
