r"""Consistency flow matching: one velocity for two Euler steps.

python -m experiments.train --config=configs/few_step/consistency_flow_matching.py:digits \
    --workdir=runs/consistency_flow_matching

After the colon a data set, two_moons where it is left out. Yang et al., 2024, arXiv:2407.02398.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "consistency_flow_matching")
