"""Whether the network can be preconditioned and read its own estimate, as the config says."""

import math

from ml_collections import ConfigDict

from experiments.setup import build

__all__ = ["check_wrapped"]


def check_wrapped(config: ConfigDict) -> None:
    """Refuse numbers that are none, and a path or loss that does not go with them.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    sigma_data, rate = config.preconditioned.sigma_data, config.self_condition.rate
    if not (isinstance(sigma_data, int | float) and 0 <= sigma_data < math.inf):
        raise ValueError(
            "config.preconditioned.sigma_data must be the standard deviation of the data, a "
            f"positive, finite number, or 0 for a network as it is; it is {sigma_data!r}"
        )
    if not (isinstance(rate, int | float) and 0 <= rate <= 1):
        raise ValueError(
            "config.self_condition.rate must be the share of examples that see an estimate, in "
            f"[0, 1], or 0 for a network that takes none; it is {rate!r}"
        )
    if sigma_data:
        _check_preconditioned(config)


def _check_preconditioned(config: ConfigDict) -> None:
    """Of an affine path, in a loss that takes the output for the data."""
    where = f"config.preconditioned.sigma_data is {config.preconditioned.sigma_data}, "
    if getattr(build.path(config), "schedule", None) is None:
        raise ValueError(
            f"{where}but config.path ({config.path.name}) has no schedule: name an affine one, as "
            "'linear' or 'edm', or set it to 0"
        )
    prediction = getattr(build.loss(config), "prediction", None)
    if prediction != "data":
        raise ValueError(
            f"{where}so that the network predicts the data, but config.loss ({config.loss.name}) "
            f"takes its output for the {prediction}: name 'flow_matching' with "
            "--config.loss.kwargs.prediction=data, or set it to 0"
        )
