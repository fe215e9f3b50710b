"""Three bodies joined by springs: a field with six numbers to learn, its gradients written out."""

import torch
from torch import Tensor, nn

from lightning_modules.solvers import Coefficients

BODIES = 3
PAIRS = ((0, 1), (0, 2), (1, 2))  # of bodies, in the order of the springs
POSITIONS = 2 * BODIES  # numbers of a state that are positions; as many are velocities


class SpringField(nn.Module):
    """Three bodies of mass 1 in the plane, each pair joined by a spring that obeys Hooke's law.

    A state is the positions (x₁, y₁, x₂, y₂, x₃, y₃), then the velocities in the same order. With
    d_ij = x_i - x_j and r_ij = |d_ij|, the spring between i and j, of stiffness k_ij and rest
    length l_ij, pulls body i by -k_ij (r_ij - l_ij) d_ij / r_ij, and body j by the opposite.

    What is learned are logarithms, so that both stay positive: k = k₀ exp(κ) and l = l₀ exp(λ)
    from κ = λ = 0 on. k and k l are the coefficients, the same at all times, so that the native
    backend solves it without a graph.

    Args:
        stiffness: k₀ of the springs 1-2, 1-3 and 2-3, ``(3,)``; or of each state of a batch,
            ``(batch, 3)``.
        rest_lengths: l₀, shaped alike.

    Raises:
        ValueError: If they are not three positive numbers each.
    """

    stiffness_guess: Tensor
    rest_guess: Tensor
    _apart: Tensor
    _together: Tensor

    def __init__(self, stiffness: Tensor, rest_lengths: Tensor) -> None:
        super().__init__()
        for name, value in (("stiffness", stiffness), ("rest_lengths", rest_lengths)):
            good = bool(((value > 0) & value.isfinite()).all())
            if value.shape[-1:] != (len(PAIRS),) or value.shape != stiffness.shape or not good:
                raise ValueError(
                    f"{name} is {value.tolist()}; give {len(PAIRS)} finite numbers above 0, one "
                    "for each spring."
                )
        self.register_buffer("stiffness_guess", stiffness.clone())
        self.register_buffer("rest_guess", rest_lengths.clone())
        self.log_stiffness = nn.Parameter(torch.zeros_like(stiffness))
        self.log_rest = nn.Parameter(torch.zeros_like(rest_lengths))
        # Positions times this are the differences d_ij, and pulls times that are accelerations.
        matrix = torch.zeros(BODIES, len(PAIRS), dtype=stiffness.dtype)
        for spring, (first, second) in enumerate(PAIRS):
            matrix[first, spring], matrix[second, spring] = 1, -1
        apart = torch.kron(matrix, torch.eye(2, dtype=stiffness.dtype))
        self.register_buffer("_apart", apart, persistent=False)
        self.register_buffer("_together", -apart.T.contiguous(), persistent=False)

    @property
    def stiffness(self) -> Tensor:
        """The stiffnesses k, shaped as they were given."""
        return self.stiffness_guess * self.log_stiffness.exp()

    @property
    def rest_lengths(self) -> Tensor:
        """The rest lengths l, shaped as they were given."""
        return self.rest_guess * self.log_rest.exp()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return velocities and accelerations of states ``(…, 12)``, shaped alike."""
        x, v = y[..., :POSITIONS], y[..., POSITIONS:]
        return torch.cat([v, self.accelerations(self.stiffness, self.rest_lengths, x)], dim=-1)

    def distances(self, x: Tensor) -> Tensor:
        """Return the lengths of the springs at positions ``(…, 6)``, ``(…, 3)``."""
        return (x @ self._apart).view(*x.shape[:-1], len(PAIRS), 2).norm(dim=-1)

    def accelerations(self, k: Tensor, rest: Tensor, x: Tensor) -> Tensor:
        """Return what springs of any stiffness and rest length do to bodies, ``(…, 6)``.

        Args:
            k: Stiffnesses, ``(3,)`` or ``(…, 3)``.
            rest: Rest lengths, shaped alike.
            x: Positions, ``(…, 6)``.
        """
        d, _, s = self._springs(k, k * rest, x)
        return (s.unsqueeze(-1) * d).view(x.shape) @ self._together

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return k and k l, the same at all ``times``, ``(time,)``."""
        k = self.stiffness
        return tuple(c.expand(len(times), *c.shape) for c in (k, k * self.rest_lengths))

    def slope(self, c: Coefficients, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write dy/dt to ``out``; return the springs as ``pull`` needs them."""
        x = y[..., :POSITIONS]
        note = self._springs(c[0], c[1], x)
        d, _, s = note
        out[..., :POSITIONS] = y[..., POSITIONS:]
        out[..., POSITIONS:] = (s.unsqueeze(-1) * d).view(x.shape) @ self._together
        return note

    def pull(
        self, c: Coefficients, y: Tensor, note: tuple[Tensor, Tensor, Tensor], kappa: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products with respect to state, k and k l."""
        d, inverse, s = note
        of_pulls = (kappa[..., POSITIONS:] @ self._together.T).view(d.shape)
        of_s = (of_pulls * d).sum(dim=-1)
        of_product = of_s * inverse
        bent = of_product * c[1] * inverse.square()
        of_d = torch.addcmul(s.unsqueeze(-1) * of_pulls, bent.unsqueeze(-1), d)
        of_x = of_d.view(*y.shape[:-1], POSITIONS) @ self._apart.T
        of_state = torch.cat([of_x, kappa[..., :POSITIONS]], dim=-1)
        return of_state, of_s.sum_to_size(c[0].shape), of_product.neg().sum_to_size(c[1].shape)

    def _springs(self, k: Tensor, product: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return differences d, ``(…, 3, 2)``, and of each spring 1 / r and k - k l / r."""
        d = (x @ self._apart).view(*x.shape[:-1], len(PAIRS), 2)
        inverse = torch.linalg.vector_norm(d, dim=-1).reciprocal()
        return d, inverse, torch.addcmul(k, product, inverse, value=-1)
