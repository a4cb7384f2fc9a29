r"""Inductive moment matching: two ways to the same time give the same law.

python -m experiments.train --config=configs/few_step/moment_matching.py:digits \
    --workdir=runs/moment_matching

After the colon a data set, two_moons where it is left out. Zhou et al., 2025, arXiv:2503.07565.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "moment_matching")
