"""Every method there is, with what it must be; the tests of methods run over these rows."""

from collections.abc import Callable
from typing import NamedTuple

from jaxflow import sampling
from jaxflow.sampling import diffusions
from jaxflow.types import Method, Path


class Row(NamedTuple):
    """A method for a path, what a step costs, and its order (the weak one of a stochastic one).

    An exponential one adds no noise, and reaches its order where the ratio of noise to data is
    neither zero nor infinite.
    """

    make: Callable[[Path], Method]
    calls: int
    order: int
    keys: bool = False
    exponential: bool = False


METHODS = {
    "euler": Row(lambda path: sampling.euler(), 1, 1),
    "midpoint": Row(lambda path: sampling.midpoint(), 2, 2),
    "heun": Row(lambda path: sampling.heun(), 2, 2),
    "rk4": Row(lambda path: sampling.rk4(), 4, 4),
    "ab2": Row(lambda path: sampling.ab2(), 1, 2),
    "ab3": Row(lambda path: sampling.ab3(), 1, 3),
    "ddim": Row(sampling.ddim, 1, 1, exponential=True),
    "ddim.half": Row(lambda path: sampling.ddim(path, 0.5), 1, 1, keys=True),
    "ddim.one": Row(lambda path: sampling.ddim(path, 1.0), 1, 1, keys=True),
    "dpm_solver": Row(sampling.dpm_solver, 1, 2, exponential=True),
    "unipc.1": Row(lambda path: sampling.unipc(path, 1), 1, 2, exponential=True),
    "unipc": Row(sampling.unipc, 1, 3, exponential=True),
    "unipc.3": Row(lambda path: sampling.unipc(path, 3), 1, 3, exponential=True),
    "churn.0": Row(lambda path: sampling.churn(path, 0.0), 2, 2, keys=True, exponential=True),
    "churn": Row(lambda path: sampling.churn(path, 0.2), 2, 2, keys=True),
    "sde_dpm_solver": Row(sampling.sde_dpm_solver, 1, 2, keys=True),
    "euler_maruyama": Row(
        lambda path: sampling.euler_maruyama(diffusions.sigma(path), path=path), 1, 1, keys=True
    ),
    "stochastic_heun": Row(
        lambda path: sampling.stochastic_heun(diffusions.sigma(path), path=path), 2, 2, keys=True
    ),
    "corrected": Row(lambda path: sampling.corrected(sampling.ddim(path), path), 2, 1, keys=True),
    "corrected.twice": Row(
        lambda path: sampling.corrected(sampling.sde_dpm_solver(path), path, steps=2, snr=0.1),
        3,
        2,
        keys=True,
    ),
}
EVERYWHERE = {name: row for name, row in METHODS.items() if not (row.keys or row.exponential)}
EXACT = {name: row for name, row in METHODS.items() if row.exponential or not row.keys}
