r"""Consistency training in steps that are a share of what is left.

python -m experiments.train --config=configs/few_step/discrete_consistency.py:digits \
    --workdir=runs/discrete_consistency

After the colon a data set, two_moons where it is left out. Geng et al., 2024, arXiv:2406.14548.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "discrete_consistency")
