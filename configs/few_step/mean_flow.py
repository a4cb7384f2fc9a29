"""MeanFlow: the average velocity, from data alone.

python -m experiments.train --config=configs/few_step/mean_flow.py:digits --workdir=runs/mean_flow

After the colon a data set, two_moons where it is left out. Geng et al., 2025, arXiv:2505.13447.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "mean_flow")
