"""Density models: planar and continuous flows, alone or many side by side (Figures 4 and 5)."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.callbacks import Diverged
from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import (
    BOX,
    ContinuousFlow,
    Flow,
    PlanarField,
    PlanarFlow,
    TimeMLP,
    Trace,
    TracedField,
    find_energy,
    log_normaliser,
)
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverFailed, SolverSettings

Kind = Literal["planar", "cnf", "ffjord"]
Objective = Literal["kl", "likelihood"]
ANNEAL_FROM = 0.01


class DensityModel(pl.LightningModule):
    """Learns a density by a flow from a Gaussian, for one data set or for many side by side.

    Members are fits of the same kind that share nothing but the solver's steps. A batch is a tuple
    of one tensor, ``(members, points, dim)``: standard normal numbers for ``kl``, data for
    ``likelihood``. The loss is the sum over members of E_q[log q + U], the divergence from q to
    exp(-U) up to a constant, or of -E[log q], in nats.

    A member whose gradient is no longer finite is left out from then on: it becomes a copy of a
    living one, gets no gradient and is not tested. ``alive`` says which members are.

    Args:
        flow: ``planar`` layers, ``cnf`` with the paper's planar field and hypernetwork, or
            ``ffjord``, a perceptron as the field, for one member.
        objective: What is minimised; ``kl`` to the density exp(-U) of each member's target.
        dim: Dimension of the points; energies have 2.
        size: Hidden units M of the fields or planar layers K.
        hidden: Units of the hypernetwork's layers (``cnf``).
        depth: Hidden layers of the perceptron (``ffjord``).
        trace: How the trace of its field is found (``ffjord``).
        horizon: Time T over which a field acts (``cnf``, ``ffjord``).
        base_std: Standard deviation of the Gaussian.
        targets: An energy for each member (``kl``): u1 to u4 or ``package.module:function``.
        member_seeds: Seeds of the members' weights; None draws one member from torch's own.
        anneal: Updates over which the energy's factor rises from 0.01 to 1 (``kl``); 0 for none.
        solver: How the field's equation is solved.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    alive: Tensor

    def __init__(
        self,
        flow: Kind = "cnf",
        objective: Objective = "likelihood",
        dim: int = 2,
        size: int = 64,
        hidden: int = 32,
        depth: int = 2,
        trace: Trace = "exact",
        horizon: float = 1.0,
        base_std: float = 1.0,
        targets: list[str] | None = None,
        member_seeds: list[int] | None = None,
        anneal: int = 0,
        solver: SolverSettings = SolverSettings(backend="native", rtol=1e-5, atol=1e-5),
        optimizer: OptimizerSettings = OptimizerSettings(name="adam", lr=1e-3),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        super().__init__()
        if member_seeds is not None and not member_seeds:
            raise ValueError("member_seeds is empty; give one seed a member, or leave it out.")
        seeds = member_seeds or [torch.initial_seed() % 2**31]
        self.save_hyperparameters(
            plain(
                flow=flow,
                objective=objective,
                dim=dim,
                size=size,
                hidden=hidden,
                depth=depth,
                trace=trace,
                horizon=horizon,
                base_std=base_std,
                targets=targets,
                member_seeds=seeds,
                anneal=anneal,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )
        for name, value in (("dim", dim), ("size", size), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1.")
        if not 0 < base_std < math.inf:
            raise ValueError(f"base_std is {base_std}; give a finite number above 0.")
        if anneal < 0:
            raise ValueError(f"anneal is {anneal}; give a number of updates, or 0 for none.")
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        self.objective, self.base_std, self.anneal = objective, base_std, anneal
        self.targets = _checked_targets(objective, dim, targets, len(seeds))
        ode = settings(SolverSettings, solver)
        if flow == "planar":
            self.net: Flow = PlanarFlow(dim, size, seeds, generates=objective == "kl")
        elif flow == "cnf":
            field = PlanarField(dim, size, hidden, seeds)
            self.net = ContinuousFlow(field, dim, len(seeds), horizon, ode)
        elif flow == "ffjord":
            self.net = _free_form(dim, size, depth, trace, horizon, seeds, ode)
        else:
            raise ValueError(f"Unknown flow {flow!r}. Choose one of planar, cnf, ffjord.")
        self.register_buffer("alive", torch.ones(len(seeds), dtype=torch.bool))
        self._sums: list[Tensor] = []

    @property
    def members(self) -> int:
        """The number of fits."""
        return self.net.members

    def log_prob(self, x: Tensor, part: float = 1.0) -> Tensor:
        """Return the log-density in nats.

        Args:
            x: Points, ``(points, dim)`` for every member or ``(members, points, dim)``.
            part: How much of the way from base to data has been gone; 1 is the model.

        Returns:
            ``(points,)`` for a single member given ``(points, dim)``, else ``(members, points)``.

        Raises:
            ValueError: If the points do not fit or are not finite.
        """
        if not bool(torch.isfinite(x).all()):
            raise ValueError("Some points are not finite. Leave them out.")
        z, volume = self.net.pull(self._points(x), part)
        found = self._base_log_prob(z) + volume
        return found[0] if x.ndim == 2 and self.members == 1 else found

    def sample(
        self, count: int, generator: torch.Generator | None = None, part: float = 1.0
    ) -> Tensor:
        """Draw from the density.

        Args:
            count: Points of each member, at least 1.
            generator: Source of the randomness, on the CPU; None for torch's own.
            part: As in ``log_prob``.

        Returns:
            ``(count, dim)`` for a single member, else ``(members, count, dim)``.

        Raises:
            ValueError: If ``count`` is below 1.
        """
        if count < 1:
            raise ValueError(f"{count} samples were asked for; ask for at least 1.")
        z = torch.randn(self.members, self.net.dim, count, generator=generator)
        x, _ = self.net.push(self.base_std * z.to(self.device, self._number_type()), part)
        x = x.transpose(1, 2)
        return x[0] if self.members == 1 else x

    def only(self, members: Sequence[int]) -> "DensityModel":
        """Return a model of these members alone, with weights of its own."""
        given = dict(self.hparams)
        for name in ("member_seeds", "targets"):
            if given[name]:
                given[name] = [given[name][i] for i in members]
        model = DensityModel(**given)
        state = self.net.state_dict()
        if self.hparams["flow"] != "ffjord":  # whose single member has no dimension of its own
            state = {name: tensor[list(members)] for name, tensor in state.items()}
        model.net.load_state_dict(state)
        return model.to(self.device, self._number_type()).train(self.training)

    def member_losses(self, batch: Tensor, weight: float = 1.0) -> Tensor:
        """Return the loss of every member, ``(members,)``.

        Args:
            batch: ``(members, points, dim)``.
            weight: Factor of the energy (``kl``).
        """
        return self._solve(batch, weight)[0].mean(dim=1)

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the sum of the living members' losses and their mean; log the mean and each."""
        weight = 1.0
        if self.anneal:
            weight = min(1.0, ANNEAL_FROM + self.global_step / self.anneal)
        with self._keyed_noise(batch_idx):
            losses = self._values(batch[0], weight)[0].mean(dim=1)
        losses = torch.where(self.alive, losses, 0.0)
        mean = losses.detach().sum() / self.alive.sum()
        if is_read(self):
            self.log("train/loss", mean)
            if self.members > 1:
                self.log_dict({f"train/loss/{i}": v for i, v in enumerate(losses.detach())})
        return {"loss": losses.sum(), "mean_loss": mean}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave out members whose gradient is not finite.

        Raises:
            Diverged: If none is left.
        """
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        if bool(torch.isfinite(sum(g.sum() for g in gradients))):  # type: ignore[arg-type]
            return
        if self.members == 1:
            raise Diverged(
                f"The gradient is not finite after {self.global_step} updates. "
                "Lower --model.optimizer.lr."
            )
        finite = [torch.isfinite(g).flatten(1).all(dim=1) for g in gradients]
        self._leave_out(~torch.stack(finite).all(dim=0))

    def validation_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        """Log the mean loss of the living members."""
        losses = self._values(batch[0], 1.0)[0].mean(dim=1)
        self.log("val/loss", losses[self.alive].mean(), batch_size=batch[0].shape[1])

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self._sums = []

    def test_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        """Sum up what the test is made of, in float64."""
        values, points = self._values(batch[0], 1.0)
        inside = (points.abs() <= BOX).all(dim=1)
        kept = inside if self.objective == "kl" else torch.ones_like(inside)
        values = torch.where(kept, values.double(), 0.0)
        parts = (kept.double(), values, values.square(), torch.ones_like(values))
        self._sums.append(torch.stack([part.sum(dim=1) for part in parts]))

    def on_test_epoch_end(self) -> None:
        """Log, for each living member, its divergence on the box or its negative log-likelihood.

        ``test/kl/<member>`` is KL(q|box || p|box) = E[log q + U | box] - ln q(box) + ln Z_box, in
        nats, ``test/outside/<member>`` the part of q outside of the box; ``test/nll/<member>`` the
        mean of -log q. ``…_se`` is the standard error over the test points, of both terms.
        """
        kept, total, squares, count = torch.stack(self._sums).sum(dim=0)
        mean = total / kept
        # Of the mean, and of ln q(box), whose points are other ones.
        inside = (squares / kept - mean.square()).clamp_min(0) / kept
        error = (inside + (count - kept) / (kept * count)).sqrt()
        for i in self.alive.nonzero().flatten().tolist():
            if self.objective == "likelihood":
                self.log_dict({f"test/nll/{i}": mean[i], f"test/nll_se/{i}": error[i]})
                continue
            part = float(kept[i] / count[i])
            kl = float(mean[i]) - math.log(part or math.nan) + log_normaliser(self.targets[i])
            found = {"kl": kl, "kl_se": float(error[i]), "outside": 1 - part}
            self.log_dict({f"test/{name}/{i}": value for name, value in found.items()})
        self.log("test/alive", self.alive.sum().float())

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.net.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )

    @contextmanager
    def _keyed_noise(self, batch_idx: int) -> Iterator[None]:
        """Let the noise of an estimated trace depend on seed and update alone."""
        field = getattr(self.net, "field", None)
        if not isinstance(field, TracedField):
            yield
            return
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        seed = self.hparams["member_seeds"][0]
        name = f"{seed}/trace/{self.global_step}/{batch_idx}"
        key = hashlib.sha256(name.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:4]))

        def draw(points: int, dim: int) -> Tensor:
            drawn = torch.randn(ranks * points, dim, generator=generator)
            return drawn[rank * points :][:points]

        field.source = draw
        try:
            yield
        finally:
            field.source = None

    def _values(self, batch: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Return what `_solve` does, without the members that cannot be solved."""
        try:
            return self._solve(batch, weight)
        except SolverFailed as error:
            self._leave_out_culprits(batch, error)
            return self._solve(batch, weight)

    def _solve(self, batch: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Return what the loss is the mean of, ``(members, points)``, and the data points."""
        points = self._points(batch)
        if self.objective == "likelihood":
            z, volume = self.net.pull(points)
            return -(self._base_log_prob(z) + volume), points
        z = self.base_std * points
        x, volume = self.net.push(z)
        log_q = self._base_log_prob(z) - volume
        return log_q + weight * self._energies(x), x

    def _energies(self, x: Tensor) -> Tensor:
        """Return each member's energy of its points, ``(members, points)``."""
        x, parts, start = x.transpose(1, 2), [], 0
        for i in range(1, self.members + 1):
            if i == self.members or self.targets[i] != self.targets[start]:
                parts.append(find_energy(self.targets[start])(x[start:i]))
                start = i
        return torch.cat(parts)

    def _base_log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of the base, summed over the coordinates in dimension 1."""
        constant = z.shape[1] * (math.log(self.base_std) + 0.5 * math.log(2 * math.pi))
        return -(z / self.base_std).square().sum(dim=1) / 2 - constant

    def _points(self, x: Tensor) -> Tensor:
        """Return ``(members, dim, points)`` from points as users have them."""
        fits = x.ndim in (2, 3) and x.shape[-1] == self.net.dim and x.shape[-2] > 0
        if not fits or (x.ndim == 3 and x.shape[0] != self.members):
            raise ValueError(
                f"The points are {tuple(x.shape)}; this model takes (points, {self.net.dim}) or "
                f"({self.members}, points, {self.net.dim}), with at least one point."
            )
        x = x if x.ndim == 3 else x.expand(self.members, *x.shape)
        return x.to(self.device, self._number_type()).transpose(1, 2).contiguous()

    def _number_type(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    def _leave_out_culprits(self, batch: Tensor, error: SolverFailed) -> None:
        """Leave out the members that cannot be solved by themselves; the others go on."""
        if self.members == 1 or self.trainer.world_size > 1:
            raise error
        failed = torch.zeros_like(self.alive)
        kept = [p.detach().clone() for p in self.net.parameters()]
        everyone = torch.ones_like(self.alive)
        for i in self.alive.nonzero().flatten().tolist():
            self._become(everyone, i)
            try:
                with torch.no_grad():
                    self.member_losses(batch)
            except SolverFailed:
                failed[i] = True
            with torch.no_grad():
                for p, before in zip(self.net.parameters(), kept, strict=True):
                    p.copy_(before)
        if not bool(failed.any()):
            raise error
        self._leave_out(failed)

    def _leave_out(self, members: Tensor) -> None:
        """Train these members no more."""
        self.alive &= ~members
        if not bool(self.alive.any()):
            raise Diverged(
                f"No member is left after {self.global_step} updates: of each the gradient was "
                "not finite, or its equation could not be solved. Lower --model.optimizer.lr."
            )
        self._become(members, int(self.alive.nonzero()[0]))
        for p in self.net.parameters():
            if p.grad is not None:
                p.grad[members] = 0.0

    @torch.no_grad()
    def _become(self, members: Tensor, other: int) -> None:
        """Give these members the weights of another one."""
        for p in self.net.parameters():
            p[members] = p[other].clone()


def _checked_targets(
    objective: str, dim: int, targets: Sequence[str] | None, members: int
) -> list[str]:
    if objective == "likelihood":
        if targets:
            raise ValueError("targets are energies, which objective='kl' reads. Leave them out.")
        return []
    if objective != "kl":
        raise ValueError(f"Unknown objective {objective!r}. Choose one of kl, likelihood.")
    if dim != 2:
        raise ValueError(f"dim is {dim}; the energies of objective='kl' are on the plane: dim=2.")
    if not targets or len(targets) != members:
        given = len(targets or [])
        raise ValueError(
            f"{given} targets for {members} members. Give one for each, such as targets=[u1]."
        )
    for name in set(targets):
        find_energy(name)
    return list(targets)


def _free_form(
    dim: int,
    size: int,
    depth: int,
    trace: Trace,
    horizon: float,
    seeds: Sequence[int],
    solver: SolverSettings,
) -> Flow:
    if len(seeds) > 1:
        raise ValueError(f"flow='ffjord' is one fit; {len(seeds)} member_seeds were given.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[0])
        field = TracedField(TimeMLP(dim, size, depth), trace)
    return ContinuousFlow(field, dim, 1, horizon, solver)
