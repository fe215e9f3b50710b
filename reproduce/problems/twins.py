"""The problems again in jax.numpy: the same functions of the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from reproduce.problems.base import Problem

Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Twin:
    """A problem as JAX differentiates and compiles it.

    Args:
        field: Called as ``field(t, y, weights)``.
        start: Returns the initial state, and what the loss needs beside the states.
        loss: Called with the states ``(time, *state)``, what ``start`` left and the weights.
    """

    field: Callable[[Any, Any, Weights], Any]
    start: Callable[[Weights], tuple[Any, Any]]
    loss: Callable[[Any, Any, Weights], Any]


def twin(problem: Problem) -> Twin | None:
    """Return a problem's twin; weights are by the names of its parameters and buffers.

    A field of the user's own has one if its class has a static method ``jax_field(t, y,
    weights)``, whose weights are by the names of the field's parameters and buffers.
    """
    if problem.name == "own":
        field = getattr(type(problem.field), "jax_field", None)
        return None if field is None else Twin(_inner(field), _given("y0"), _mean_square)
    return TWINS[problem.name](problem)


def _inner(field: Callable[[Any, Any, Weights], Any]) -> Callable[[Any, Any, Weights], Any]:
    prefix = "field."

    def of_field(t: Any, y: Any, w: Weights) -> Any:
        inside = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        return field(t, y, inside)

    return of_field


def _given(name: str) -> Callable[[Weights], tuple[Any, Any]]:
    return lambda w: (w[name], None)


def _mean_square(ys: Any, left: Any, w: Weights) -> Any:
    return (ys[1:] ** 2).mean()


def _linear(problem: Problem) -> Twin:
    import jax.numpy as jnp

    def field(t: Any, y: Any, w: Weights) -> Any:
        x, v = jnp.split(y, 2, axis=-1)
        a, s = w["field.rates"], w["field.speeds"]
        return jnp.concatenate([-a * x - s * v, s * x - a * v], axis=-1)

    return Twin(field, _given("y0"), _mean_square)


def _van_der_pol(problem: Problem) -> Twin:
    import jax.numpy as jnp

    def field(t: Any, y: Any, w: Weights) -> Any:
        x, v = y[..., :1], y[..., 1:]
        return jnp.concatenate([v, w["field.stiffness"] * (1 - x * x) * v - x], axis=-1)

    return Twin(field, _given("y0"), _mean_square)


def _spiral(problem: Problem) -> Twin:
    import jax.numpy as jnp

    def field(t: Any, y: Any, w: Weights) -> Any:
        units = jnp.tanh(_layer(w, "field.first", y**3))
        return _layer(w, "field.second", units)

    def loss(ys: Any, left: Any, w: Weights) -> Any:
        return jnp.abs(ys - w["targets"]).mean()

    return Twin(field, _given("y0"), loss)


def _cnf(problem: Problem) -> Twin:
    import jax
    import jax.numpy as jnp

    width: int = problem.field.hyper.width  # type: ignore[assignment, union-attr]
    dim: int = problem.field.dim  # type: ignore[assignment]
    block = width * dim

    def layer(w: Weights, name: str, x: Any) -> Any:
        return x @ w[f"field.hyper.{name}.weight"][0] + w[f"field.hyper.{name}.bias"][0]

    def field(t: Any, y: Any, w: Weights) -> Any:
        x = jnp.tanh(layer(w, "first", jnp.reshape(t, (1, 1))))
        x = layer(w, "last", jnp.tanh(layer(w, "second", x)))[0]
        into, out, gate, b = jnp.split(x, (block, 2 * block, 3 * block))
        into = into.reshape(width, dim)
        out = (out * jax.nn.sigmoid(gate) / width).reshape(dim, width)
        c = (into.T * out).sum(axis=0, keepdims=True)
        h = jnp.tanh(into @ y[0, :dim] + b[:, None])
        return jnp.concatenate([out @ h, c @ (1 - h * h)])[None]

    def loss(ys: Any, left: Any, w: Weights) -> Any:
        z, volume = ys[-1, 0, :dim], ys[-1, 0, dim]
        return ((z**2).sum(axis=0) / 2 - volume).mean()

    return Twin(field, _given("points"), loss)


def _latent(problem: Problem) -> Twin:
    import jax
    import jax.numpy as jnp

    from reproduce.problems.trainings import HIDDEN, NOISE

    layers: nn.ModuleList = problem.field.layers  # type: ignore[assignment]

    def field(t: Any, y: Any, w: Weights) -> Any:
        for k in range(len(layers) - 1):
            y = jax.nn.elu(_layer(w, f"field.layers.{k}", y))
        return _layer(w, f"field.layers.{len(layers) - 1}", y)

    def start(w: Weights) -> tuple[Any, Any]:
        # All inputs at once before the loop, as XLA does not take them out of it.
        into = _layer(w, "net.recognition.into", w["inputs"])
        memory = w["net.recognition.memory.weight"].T

        def step(h: Any, u: Any) -> tuple[Any, None]:
            return jnp.tanh(u + h @ memory), None

        first = jnp.zeros((into.shape[1], HIDDEN), into.dtype)
        last, _ = jax.lax.scan(step, first, into)
        mean, log_variance = jnp.split(_layer(w, "net.posterior_of", last), 2, axis=1)
        return mean + jnp.exp(log_variance / 2) * w["noise"], (mean, log_variance / 2)

    def loss(ys: Any, left: Any, w: Weights) -> Any:
        mean, log_std = left
        hidden = jax.nn.relu(_layer(w, "net.decoder.0", ys))
        x = _layer(w, "net.decoder.2", hidden).transpose(1, 0, 2)
        squares = ((w["x"] - x) ** 2 / NOISE**2).reshape(len(mean), -1)
        constant = squares.shape[1] * (jnp.log(NOISE) + jnp.log(2 * jnp.pi) / 2)
        misfit = squares.sum(axis=1) / 2 + constant
        divergence = (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum(axis=1) / 2
        return (misfit + divergence).mean()

    return Twin(field, start, loss)


def _odenet(problem: Problem) -> Twin:
    import jax
    import jax.numpy as jnp

    groups: int = problem.field.norm1.num_groups  # type: ignore[assignment, union-attr]

    def norm(w: Weights, name: str, x: Any) -> Any:
        parts = x.reshape(len(x), groups, -1)
        centred = parts - parts.mean(axis=2, keepdims=True)
        scaled = centred * jax.lax.rsqrt((centred**2).mean(axis=2, keepdims=True) + 1e-5)
        weight, bias = w[f"field.{name}.weight"], w[f"field.{name}.bias"]
        return scaled.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]

    def convolved(w: Weights, name: str, t: Any, x: Any) -> Any:
        weight, bias = w[f"field.{name}.weight"], w[f"field.{name}.bias"]
        shape = (1, 1, *x.shape[2:])
        of_time = t * _conv(jnp.ones(shape, x.dtype), weight[:, :1])
        return _conv(x, weight[:, 1:]) + of_time + bias[:, None, None]

    def field(t: Any, y: Any, w: Weights) -> Any:
        hidden = convolved(w, "conv1", t, jax.nn.relu(norm(w, "norm1", y)))
        hidden = convolved(w, "conv2", t, jax.nn.relu(norm(w, "norm2", hidden)))
        return norm(w, "norm3", hidden)

    return Twin(field, _given("y0"), _mean_square)


def _layer(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _conv(x: Any, weight: Any) -> Any:
    """Convolve ``(batch, channels, height, width)`` by 3x3, padded.

    On a CPU XLA's own takes some thirty times as long as the same as one product of nine shifts.
    """
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME")
    batch, channels, height, width = x.shape
    padded = jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    rows = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * channels)
    found = rows @ weight.transpose(2, 3, 1, 0).reshape(9 * channels, -1)
    return found.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)


TWINS: dict[str, Callable[[Problem], Twin]] = {
    "linear": _linear,
    "van_der_pol": _van_der_pol,
    "van_der_pol_stiff": _van_der_pol,
    "spiral": _spiral,
    "cnf": _cnf,
    "latent": _latent,
    "odenet": _odenet,
}
