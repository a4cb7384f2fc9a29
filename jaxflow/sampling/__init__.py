"""Samplers integrate a velocity from its source to data, and tell what that cost."""

from jaxflow.sampling import diffusions, grids, leaps
from jaxflow.sampling.adaptive import adaptive
from jaxflow.sampling.bespoke import Bespoke, bespoke
from jaxflow.sampling.by_block import by_block
from jaxflow.sampling.diagnostics import path_cost
from jaxflow.sampling.edits import edits
from jaxflow.sampling.entropy_bounded import entropy_bounded
from jaxflow.sampling.first_hitting import first_hitting
from jaxflow.sampling.fixed_step import fixed_step
from jaxflow.sampling.flow_map import flow_map
from jaxflow.sampling.jumps import jumps
from jaxflow.sampling.likelihood import exact, hutchinson, log_prob
from jaxflow.sampling.methods import (
    ab2,
    ab3,
    churn,
    corrected,
    ddim,
    dpm_solver,
    euler,
    euler_maruyama,
    heun,
    midpoint,
    rk4,
    sde_dpm_solver,
    stochastic_heun,
    unipc,
)
from jaxflow.sampling.mixed import mixed
from jaxflow.sampling.precision import PRECISIONS
from jaxflow.sampling.residuals import Residual, lagrangian_residual, semigroup_residual
from jaxflow.sampling.sde import sde

__all__ = [
    "Bespoke",
    "PRECISIONS",
    "Residual",
    "ab2",
    "ab3",
    "adaptive",
    "bespoke",
    "by_block",
    "churn",
    "corrected",
    "ddim",
    "diffusions",
    "dpm_solver",
    "edits",
    "entropy_bounded",
    "euler",
    "euler_maruyama",
    "exact",
    "first_hitting",
    "fixed_step",
    "flow_map",
    "grids",
    "heun",
    "hutchinson",
    "jumps",
    "lagrangian_residual",
    "leaps",
    "log_prob",
    "midpoint",
    "mixed",
    "path_cost",
    "rk4",
    "sde",
    "sde_dpm_solver",
    "semigroup_residual",
    "stochastic_heun",
    "unipc",
]
