r"""Terminal velocity matching: the Lagrangian condition and the velocity at the end of every pair.

python -m experiments.train --config=configs/few_step/terminal_velocity.py:digits \
    --workdir=runs/terminal_velocity

After the colon a data set, two_moons where it is left out. Zhou et al., 2025, arXiv:2511.19797.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "terminal_velocity")
