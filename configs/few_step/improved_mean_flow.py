r"""Improved MeanFlow: a regression whose target no network makes.

python -m experiments.train --config=configs/few_step/improved_mean_flow.py:digits \
    --workdir=runs/improved

After the colon a data set, two_moons where it is left out. Geng et al., 2025, arXiv:2512.02012.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "improved_mean_flow")
