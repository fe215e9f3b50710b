"""Intensities of events: trained ones, a kernel estimate to compare with, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import restored
from reproduce.records import Record

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from datamodules import PoissonEvents
    from lightning_modules import PointProcessModel

WIDTHS = 12  # bandwidths that are tried, spaced evenly in their logarithm
NARROWEST, WIDEST = 0.01, 0.3  # over T
FOLDS = 5
TIGHT = 1e-10  # tolerance at which little but the integral itself can be wrong


def drawn_from(
    folder: Path, records: Sequence[Record], row: str
) -> tuple[PointProcessModel, PoissonEvents] | None:
    """Return the model of a row in float64, and the data that it learned from.

    See `restored.beside`.
    """
    from datamodules import PoissonEvents
    from lightning_modules import PointProcessModel

    def drawn(
        model: PointProcessModel, facts: dict[str, Any]
    ) -> tuple[PointProcessModel, PoissonEvents]:
        data = PoissonEvents(**{**facts["data"], "data_seed": facts["seed"]})
        return model.double(), data

    return restored.beside(folder, records, row, PointProcessModel, drawn)


def kernel_estimate(data: PoissonEvents, at: Tensor) -> Tensor | None:
    """Return what a Gaussian kernel makes of the training events.

    scikit-learn chooses the bandwidth, between 1 % and 30 % of the window, by the likelihood of
    held-out events in five-fold cross-validation. Events are reflected at both ends of the window,
    where a kernel would else lose half of its mass.

    Args:
        data: Where the events come from.
        at: Times to estimate at, ``(time,)``.

    Returns:
        The intensity of one sequence, ``(time,)``; None where there are fewer than five events.
    """
    import numpy as np
    import torch
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KernelDensity

    end = data.horizon
    events = torch.cat(data.sequences("train", data.batch_size)).numpy()[:, None]
    count = len(events)
    if count < FOLDS:
        return None
    # An event is held out with its images, and the images are not scored.
    images = np.concatenate([events, -events, 2 * end - events])
    folds = [
        (np.concatenate([kept, kept + count, kept + 2 * count]), held)
        for kept, held in KFold(FOLDS, shuffle=True, random_state=0).split(events)
    ]
    widths = {"bandwidth": end * np.geomspace(NARROWEST, WIDEST, WIDTHS)}
    search = GridSearchCV(KernelDensity(rtol=1e-4), widths, cv=folds).fit(images)
    density = np.exp(search.best_estimator_.score_samples(at.double().numpy()[:, None]))
    density = np.maximum(density, np.finfo(float).tiny)  # its tails may round to zero
    return torch.from_numpy(3 * count / data.batch_size * density)


def integral_errors(model: PointProcessModel, horizon: float) -> tuple[float, float]:
    """Return by how much Λ(T) of a solve is off, relative to SciPy's: as trained, and at 1e-10.

    SciPy solves the path alone, by DOP853 at 1e-12, and integrates the intensity along it by
    adaptive quadrature: neither the solver under test nor the integral as a state is involved.
    """
    import torch
    from scipy.integrate import quad, solve_ivp

    net = model.net

    def slope(t: float, z: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(z).unsqueeze(0)
        return net.field.dynamics(torch.tensor(t), state)[0].numpy()

    def intensity(t: float) -> float:
        return float(net.log_intensity(torch.from_numpy(path.sol(t)).unsqueeze(0)).exp())

    at = torch.tensor([horizon], dtype=torch.float64)
    with torch.no_grad():
        z0 = net.z0.numpy()
        options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-12, "dense_output": True}
        path = solve_ivp(slope, (0.0, horizon), z0, **options)
        expected, _ = quad(intensity, 0.0, horizon, epsabs=0.0, epsrel=1e-9, limit=1000)
        found = [float(m.expected_count(at)) for m in (model, _solved_at(model, TIGHT))]
    return abs(found[0] / expected - 1), abs(found[1] / expected - 1)


def uniformity(model: PointProcessModel, times: Tensor, horizon: float) -> tuple[float, float]:
    """Return Kolmogorov and Smirnov's statistic of held-out events, and its p-value.

    By the time-rescaling theorem, Λ(t)/Λ(T) is uniform over the events of a process with this
    intensity, given their number.

    Args:
        model: Its integral Λ is tested.
        times: Events of sequences it has not seen, ``(events,)``.
        horizon: T.

    Source: Brown et al. (2002), "The time-rescaling theorem and its application to neural spike
        train data analysis", Neural Computation 14.
    """
    import torch
    from scipy.stats import kstest

    at = torch.cat([times.double().unique(), times.new_tensor([horizon]).double()]).unique()
    with torch.no_grad():
        counts = model.expected_count(at)
    rescaled = counts[torch.searchsorted(at, times.double())] / counts[-1]
    test = kstest(rescaled.numpy(), "uniform")
    return float(test.statistic), float(test.pvalue)


def _solved_at(model: PointProcessModel, tolerance: float) -> PointProcessModel:
    """Return the same model, solved to another tolerance."""
    from lightning_modules import PointProcessModel

    solver = {**model.hparams["solver"], "rtol": tolerance, "atol": tolerance}
    other = PointProcessModel(**{**model.hparams, "solver": solver})
    other.load_state_dict(model.state_dict())
    return other.to(model.net.z0.dtype).eval()
