r"""Consistency training in continuous time, on the way of sCM.

python -m experiments.train --config=configs/few_step/consistency.py:digits \
    --workdir=runs/consistency

After the colon a data set, two_moons where it is left out. Lu and Song, 2024, arXiv:2410.11081.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "consistency")
