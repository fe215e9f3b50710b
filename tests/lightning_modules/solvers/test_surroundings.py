"""Gradients that evaluate a field again: the same as direct ones, or refused with the reason."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader

from lightning_modules.solvers import SolverSettings, gradient_table, odeint

TIMES = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
AGAIN = [
    (backend, gradient)
    for backend in ("torchdiffeq", "native")
    for gradient in gradient_table()[backend]
    if gradient != "direct"
]
again = pytest.mark.parametrize(("backend", "gradient"), AGAIN)


def _settings(backend: str, gradient: str) -> SolverSettings:
    return SolverSettings(
        backend=backend,
        rtol=1e-7,
        atol=1e-7,
        gradient=gradient,  # type: ignore[arg-type]
    )


def _euler(backend: str, gradient: str) -> SolverSettings:
    return SolverSettings(
        backend=backend,
        method="euler",
        step_size=0.1,
        gradient=gradient,  # type: ignore[arg-type]
    )


DIRECT = _settings("native", "direct")


def _start() -> Tensor:
    return torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


class Plain(nn.Module):
    """dy/dt = W tanh(y), scaled by an attribute, another one being tanh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3).double()
        self.scale: float | Tensor = 1.0
        self.shape: Callable[[Tensor], Tensor] = torch.tanh

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.scale * self.linear(self.shape(y))


def _gradient(
    field: nn.Module, settings: SolverSettings, parameter: Tensor, start: Tensor | None = None
) -> Tensor:
    field.zero_grad()
    y0 = _start() if start is None else start
    odeint(field, y0, TIMES, settings).ys.square().sum().backward()
    assert parameter.grad is not None
    return parameter.grad.clone()


@again
def test_a_hook_of_a_parameter_is_called_once_for_the_whole_gradient(
    backend: str, gradient: str
) -> None:
    field, seen = Plain(), []
    weight = field.linear.weight
    wanted = _gradient(field, DIRECT, weight)

    def halve(g: Tensor) -> Tensor:
        seen.append(g.clone())
        return g / 2

    handle = weight.register_hook(halve)
    torch.testing.assert_close(
        _gradient(field, _settings(backend, gradient), weight), wanted / 2, rtol=1e-4, atol=1e-5
    )
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], wanted, rtol=1e-4, atol=1e-5)
    handle.remove()
    found = _gradient(field, _settings(backend, gradient), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@again
def test_a_failed_backward_gives_parameters_their_hooks_back(
    backend: str, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, seen = Plain(), []
    weight = field.linear.weight
    weight.register_hook(lambda g: seen.append(1))
    loss = odeint(field, _start(), TIMES, _settings(backend, gradient)).ys.sum()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", None)
        with pytest.raises(TypeError):
            loss.backward()
    _gradient(field, _settings(backend, gradient), weight)
    assert seen == [1]


class Normalised(nn.Module):
    """A field with running means, written in each evaluation of training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3).double()
        self.norm = nn.BatchNorm1d(3).double()
        self.register_buffer("evaluations", torch.zeros(()))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations = self.evaluations + 1  # another tensor, not in place
        return torch.tanh(self.linear(self.norm(y)))


@again
def test_running_means_do_not_depend_on_how_gradients_are_taken(
    backend: str, gradient: str
) -> None:
    settings = _euler(backend, gradient)
    field = Normalised()
    loss = odeint(field, _start(), TIMES, settings).ys.sum()
    before = {name: buffer.clone() for name, buffer in field.named_buffers()}
    assert int(before["norm.num_batches_tracked"]) == 10
    loss.backward()
    torch.testing.assert_close(dict(field.named_buffers()), before, rtol=0, atol=0)
    assert float(field.linear.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def _other(field: Plain, how: str) -> None:
    if how == "float":
        field.scale = 2.0
    elif how == "function":
        field.shape = torch.sin
    elif how == "tensor":
        field.scale = torch.tensor(2.0).double()
    else:
        assert isinstance(field.scale, Tensor)
        field.scale.fill_(2.0)


@again
@pytest.mark.parametrize("how", ["float", "function", "tensor", "in place"])
def test_an_attribute_that_has_changed_since_forward_is_noticed(
    backend: str, gradient: str, how: str
) -> None:
    field = Plain()
    if how == "in place":
        field.scale = torch.tensor(1.0).double()
    loss = odeint(field, _start(), TIMES, _settings(backend, gradient)).ys.sum()
    _other(field, how)
    name = "shape" if how == "function" else "scale"
    with pytest.raises(RuntimeError, match=f"'{name}' was changed between forward and backward"):
        loss.backward()


@again
@pytest.mark.parametrize("what", ["weight", "frozen weight", "buffer"])
def test_a_tensor_that_lies_elsewhere_than_in_forward_is_noticed(
    backend: str, gradient: str, what: str
) -> None:
    """Autograd does not count ``p.data = …``."""
    field = Plain()
    del field.scale
    field.register_buffer("scale", torch.tensor(1.0).double())
    tensor = field.scale if what == "buffer" else field.linear.weight
    tensor.requires_grad_(what == "weight")
    loss = odeint(field, _start(), TIMES, _settings(backend, gradient)).ys.sum()
    tensor.data = 2 * tensor.data
    with pytest.raises(RuntimeError, match="between forward and backward"):
        loss.backward()


@again
def test_what_evaluations_leave_behind_is_no_change(backend: str, gradient: str) -> None:
    class Logged(Plain):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls, self.last = self.calls + 1, y.detach()
            return super().forward(t, y)

    field, plain = Logged(), Plain()
    settings = _settings(backend, gradient)
    first = odeint(field, _start(), TIMES, settings).ys.square().sum()
    (first + odeint(field, 2 * _start(), TIMES, settings).ys.square().sum()).backward()
    weight = plain.linear.weight
    wanted = sum(_gradient(plain, DIRECT, weight, k * _start()) for k in (1, 2))
    torch.testing.assert_close(field.linear.weight.grad, wanted, rtol=1e-4, atol=1e-5)


@again
def test_an_attribute_that_was_added_is_noticed(backend: str, gradient: str) -> None:
    class Optional(Plain):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(t, y) * getattr(self, "more", 1.0)

    field = Optional()
    loss = odeint(field, _start(), TIMES, _settings(backend, gradient)).ys.sum()
    field.more = 2.0
    with pytest.raises(RuntimeError, match="'more' was changed between forward and backward"):
        loss.backward()


@again
def test_a_frozen_parameter_that_evaluations_count_in_is_no_change(
    backend: str, gradient: str
) -> None:
    class Counting(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.calls = nn.Parameter(torch.zeros(()), requires_grad=False)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(t, y)

    field, settings = Counting(), _settings(backend, gradient)
    first = odeint(field, _start(), TIMES, settings).ys.sum()
    (first + odeint(field, _start(), TIMES, settings).ys.sum()).backward()
    assert field.linear.weight.grad is not None


@again
def test_a_layer_that_evaluations_make_is_no_change(backend: str, gradient: str) -> None:
    class Making(Plain):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.act = nn.ReLU()
            return self.act(super().forward(t, y))

    field, settings = Making(), _settings(backend, gradient)
    first = odeint(field, _start(), TIMES, settings).ys.sum()
    (first + odeint(field, _start(), TIMES, settings).ys.sum()).backward()
    assert field.linear.weight.grad is not None


@again
def test_a_field_may_be_a_weak_proxy(backend: str, gradient: str) -> None:
    field, settings = Plain(), _settings(backend, gradient)
    odeint(weakref.proxy(field), _start(), TIMES, settings).ys.sum().backward()
    assert field.linear.weight.grad is not None


@again
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layers_that_get_their_shape_at_the_first_solve_are_solved(
    backend: str, gradient: str
) -> None:
    field = nn.Sequential(nn.LazyLinear(3, dtype=torch.float64), nn.Tanh())
    called, settings = Called(field), _settings(backend, gradient)
    with torch.no_grad():
        odeint(called, _start(), TIMES, settings)
    odeint(called, _start(), TIMES, settings).ys.sum().backward()
    assert field[0].weight.grad is not None


@again
def test_what_evaluations_leave_behind_goes_with_the_field(backend: str, gradient: str) -> None:
    class Keeping(Plain):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.last = super().forward(t, y)
            return self.last

    gc.collect()
    gc.disable()
    try:
        field = Keeping()
        loss = odeint(field, _start(), TIMES, _settings(backend, gradient)).ys.sum()
        last, field.last = weakref.ref(field.last), None  # type: ignore[assignment]
        assert last() is None
        loss.backward()
        gone = weakref.ref(field)
        del field, loss
        assert gone() is None
    finally:
        gc.enable()


@again
def test_a_lightning_module_may_be_its_own_field(backend: str, gradient: str) -> None:
    """Lightning notes in it which hook runs, which is another one in backward."""

    class Own(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3).double()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.linear(y))

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return odeint(self, batch, TIMES, _settings(backend, gradient)).ys.square().sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module = Own()
    before = module.linear.weight.detach().clone()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([_start(), _start()], batch_size=None))
    assert not torch.equal(module.linear.weight, before)


class Called(nn.Module):
    """A network as a field."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


@again
def test_a_normalisation_that_goes_to_evaluation_before_backward_is_noticed(
    backend: str, gradient: str
) -> None:
    settings = _euler(backend, gradient)
    field = nn.Sequential(nn.BatchNorm1d(3).double(), nn.Linear(3, 3).double())
    called = Called(field)
    loss = odeint(called, _start(), TIMES, settings).ys.sum()
    field.eval()
    with pytest.raises(RuntimeError, match="between forward and backward"):
        loss.backward()


@again
def test_a_buffer_that_was_replaced_twice_is_noticed(backend: str, gradient: str) -> None:
    """A tensor made later may lie where the first one lay, and have its id."""

    class Noisy(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("noise", torch.zeros(3).double())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(t, y) + self.noise

    field, settings = Noisy(), _settings(backend, gradient)
    for _ in range(10):
        field.noise = torch.randn(3).double()
        loss = odeint(field, _start(), TIMES, settings).ys.sum()
        for _ in range(2):
            field.noise = torch.randn(3).double()
        with pytest.raises(RuntimeError, match="buffer of the field was replaced"):
            loss.backward()


@again
def test_weights_cached_without_a_graph_are_refused(backend: str, gradient: str) -> None:
    field, settings = Plain(), _settings(backend, gradient)
    parametrizations.weight_norm(field.linear)
    original = field.linear.parametrizations.weight.original1
    wanted = _gradient(field, DIRECT, original)
    with (
        parametrize.cached(),
        pytest.raises(RuntimeError, match=r"parametrize\.cached\(\), whose weights have no graph"),
    ):
        _gradient(field, settings, original)
    torch.testing.assert_close(_gradient(field, settings, original), wanted, rtol=1e-4, atol=1e-5)


@again
@pytest.mark.parametrize("hide", [lambda net: net.__call__, lambda net: lambda t, y: net(t, y)])
def test_a_field_that_hides_its_weights_is_refused_even_if_nothing_else_needs_a_gradient(
    backend: str, gradient: str, hide: Callable[[nn.Module], Callable[..., Tensor]]
) -> None:
    field = hide(Plain())
    with pytest.raises(RuntimeError, match="is no parameter of it"):
        odeint(field, _start(), TIMES, _settings(backend, gradient))
    with torch.no_grad():
        odeint(field, _start(), TIMES, _settings(backend, gradient))


@again
def test_a_hidden_tensor_is_also_refused_where_the_solve_ends(backend: str, gradient: str) -> None:
    rate = torch.ones((), dtype=torch.float64, requires_grad=True)

    def late(t: Tensor, y: Tensor) -> Tensor:
        return -rate * y if float(t) > float(TIMES[-1]) / 2 else -y

    with pytest.raises(RuntimeError, match="is no parameter of it"):
        odeint(late, _start(), TIMES, _settings(backend, gradient))


@pytest.mark.parametrize("backend", ["torchdiffeq", "native"])
def test_complex_weights_are_refused_by_the_adjoint_alone(backend: str) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.3 + 0.7j, -0.2 + 0.1j, 0.5j]).cdouble())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh((self.w * y).real - (self.w.imag * y).square())

    field = Turned()
    with pytest.raises(ValueError, match="parameter of the field is complex"):
        odeint(field, _start(), TIMES, _settings(backend, "adjoint"))
    if backend == "native":
        checkpoint = _settings(backend, "checkpoint")
        wanted = _gradient(field, DIRECT, field.w)
        torch.testing.assert_close(_gradient(field, checkpoint, field.w), wanted)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "adjoint"])
@pytest.mark.parametrize("graph", [True, False])
def test_a_field_that_overwrites_its_state_is_refused(gradient: str, graph: bool) -> None:
    field = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3).double())
    y0 = _start()
    with torch.set_grad_enabled(graph), pytest.raises(RuntimeError, match="inplace=False"):
        odeint(lambda t, y: field(y), y0, TIMES, _settings("native", gradient))


def test_a_field_that_overwrites_a_part_of_its_state_is_refused() -> None:
    def field(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[0].relu_(), y[1]

    state = (_start(), _start())
    with torch.no_grad(), pytest.raises(RuntimeError, match="changes its state in place"):
        odeint(field, state, TIMES, DIRECT)


@again
def test_means_that_a_function_writes_uncounted_are_put_back_too(
    backend: str, gradient: str
) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3).double()
            self.register_buffer("mean", torch.zeros(3).double())
            self.register_buffer("var", torch.ones(3).double())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            y = nn.functional.batch_norm(y, self.mean, self.var, training=self.training)
            return torch.tanh(self.linear(y))

    settings = _euler(backend, gradient)
    field = Own()
    loss = odeint(field, _start(), TIMES, settings).ys.sum()
    before = field.mean.clone()
    loss.backward()
    torch.testing.assert_close(field.mean, before, rtol=0, atol=0)


@pytest.mark.parametrize("graph", [True, False])
def test_derivatives_in_forward_mode_are_those_of_the_flow(graph: bool) -> None:
    def end(y0: Tensor) -> Tensor:
        return odeint(lambda t, y: -y, y0, TIMES, DIRECT).ys[-1]

    with torch.set_grad_enabled(graph):
        _, tangent = torch.func.jvp(end, (_start(),), (torch.ones(4, 3).double(),))
    torch.testing.assert_close(tangent, torch.full((4, 3), -1.0).double().exp(), rtol=1e-5, atol=0)


@again
def test_derivatives_in_forward_mode_are_refused_where_they_would_be_zero(
    backend: str, gradient: str
) -> None:
    field = Plain()

    def end(y0: Tensor) -> Tensor:
        return odeint(field, y0, TIMES, _settings(backend, gradient)).ys[-1]

    with torch.no_grad(), pytest.raises(RuntimeError, match="Derivatives in forward mode"):
        torch.func.jvp(end, (_start(),), (torch.ones(4, 3).double(),))


@again
@pytest.mark.parametrize("kind", ["plain", "wide", "inference", "sparse"])
def test_nothing_is_put_back_where_nobody_may_write(
    kind: str, backend: str, gradient: str
) -> None:
    class Decay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.inference_mode(kind == "inference"):
                rate = torch.ones(1, dtype=torch.float64)
            made = {"wide": rate.expand(3), "sparse": rate.to_sparse()}
            self.register_buffer("rate", made.get(kind, rate))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * self.rate.sum() / self.rate.numel()

    # Nothing wants a gradient, so the field is looked at for hidden tensors at both ends.
    ys = odeint(Decay(), torch.ones(2).double(), TIMES, _settings(backend, gradient)).ys
    torch.testing.assert_close(ys[:, 0], torch.exp(-TIMES), rtol=1e-5, atol=0)


class Conditioned(nn.Module):
    """A field that reads a context, which its own layer computes of what is observed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
        self.context: Tensor | None = None

    def observe(self) -> Tensor:
        return self.encoder(torch.ones(2).double())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y * (self.observe() if self.context is None else self.context))


@again
def test_a_context_that_was_computed_before_the_solve_is_refused(
    backend: str, gradient: str
) -> None:
    within = Conditioned()
    weight = within.encoder[0].weight
    found = _gradient(within, _settings(backend, gradient), weight)
    before = Conditioned()
    before.context = before.observe()
    expected = _gradient(before, DIRECT, before.encoder[0].weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    before.context = before.observe()
    with pytest.raises(RuntimeError, match=r"computed from its parameters before.*'direct'"):
        _gradient(before, _settings(backend, gradient), before.encoder[0].weight)


@again
def test_what_torch_func_cannot_transform_is_refused(backend: str, gradient: str) -> None:
    field, chosen = Plain(), _settings(backend, gradient)

    def total(y0: Tensor) -> Tensor:
        return odeint(field, y0, TIMES, chosen).ys.sum()

    for transform in (torch.func.grad, torch.func.jacrev, torch.vmap):
        with pytest.raises(RuntimeError, match=r"torch.func do not pass gradient='[ac].*'direct'"):
            transform(total)(_start())


def test_adaptive_solves_of_torchdiffeq_say_who_passes_torch_func() -> None:
    field = Plain()

    def total(y0: Tensor, backend: str) -> Tensor:
        return odeint(field, y0, TIMES, _settings(backend, "direct")).ys.sum()

    with pytest.raises(RuntimeError, match="Use backend='native'"):
        torch.func.grad(total)(_start(), "torchdiffeq")
    start = _start().requires_grad_()
    (expected,) = torch.autograd.grad(total(start, "native"), start)
    torch.testing.assert_close(torch.func.grad(total)(_start(), "native"), expected)
