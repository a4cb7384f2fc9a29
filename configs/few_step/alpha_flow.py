"""alpha-Flow, from flow matching to MeanFlow: alpha falls from 1 to 0.005 over the run.

python -m experiments.train --config=configs/few_step/alpha_flow.py:digits --workdir=runs/alpha_flow

After the colon a data set, two_moons where it is left out. Zhang et al., 2025, arXiv:2510.20771.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "alpha_flow")
