"""How the models of Table 2 are trained under each profile, wherever they are trained."""

from typing import Any

CONFIGS = {
    "rnn": "rnn.yaml",
    "rnn_hold": "rnn.yaml",
    "rnn_zero": "rnn.yaml",
    "rnn_gap": "rnn_gap.yaml",
    "rnn_paced": "rnn_gap.yaml",
    "rnn_blind": "rnn_gap.yaml",
    "latent_ode": "latent_ode.yaml",
}
# Settings that say which training a row is.
FIXED = ("model.network", "data.points", "data.data_seed")
_REDUCED: dict[str, Any] = {
    "model.schedule.name": "one_cycle",
    "model.solver.rtol": 1e-5,
    "model.solver.atol": 1e-5,
    "trainer.precision": "32-true",
    "trainer.gradient_clip_val": 100.0,
    "data.batch_size": 100,
}
_TINY = {
    **_REDUCED,
    "trainer.max_epochs": 1,
    "data.steps": 3,
    "data.train_size": 20,
    "data.test_size": 20,
    "data.batch_size": 10,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "smoke": _TINY,
    "quick": {**_REDUCED, "data.steps": 100},
    "short": {**_REDUCED, "data.steps": 300},
    "paper": {},
}


def overrides(profile: str, network: str) -> dict[str, Any]:
    """Return what a profile changes in the configuration of a network."""
    return {**OVERRIDES[profile], "model.network": network}
