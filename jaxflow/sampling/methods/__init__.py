r"""One step of a fixed-step solver each, from $t$ to $t + h$.

| method | calls | order | kind |
|---|---|---|---|
| euler | 1 | 1 | Runge-Kutta |
| midpoint, heun | 2 | 2 | Runge-Kutta |
| rk4 | 4 | 4 | Runge-Kutta |
| ab2, ab3 | 1 | 2, 3 | Adams-Bashforth, on any grid |
| ddim | 1 | 1 | exponential, for an affine path; stochastic with `eta` |
| dpm_solver | 1 | 2 | exponential |
| unipc | 1 | 2 or 3 | exponential, predicted and corrected |
| sde_dpm_solver | 1 | 2 weakly | exponential and stochastic |
| euler_maruyama | 1 | 1 weakly | stochastic |
| stochastic_heun | 2 | 2 weakly | stochastic |
| churn | 2 | 2 without noise | Heun's, after a step back to more noise |
| corrected | `steps` more | its own | any of them, and Langevin steps after each of its steps |

Times are `[batch]`, or `[batch, *lead]` for a grid of leading axes; states any pytree of arrays
that lead with the batch. `keys` serve stochastic methods alone, and a method that needs them
refuses to go without.
"""

from jaxflow.sampling.methods.churn import churn
from jaxflow.sampling.methods.corrected import corrected
from jaxflow.sampling.methods.exponential import ddim, dpm_solver, sde_dpm_solver
from jaxflow.sampling.methods.multistep import ab2, ab3
from jaxflow.sampling.methods.runge_kutta import euler, heun, midpoint, rk4
from jaxflow.sampling.methods.stochastic import euler_maruyama, stochastic_heun
from jaxflow.sampling.methods.unipc import unipc

__all__ = [
    "ab2",
    "ab3",
    "churn",
    "corrected",
    "ddim",
    "dpm_solver",
    "euler",
    "euler_maruyama",
    "heun",
    "midpoint",
    "rk4",
    "sde_dpm_solver",
    "stochastic_heun",
    "unipc",
]
