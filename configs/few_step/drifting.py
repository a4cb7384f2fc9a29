r"""Drifting: a one-step generator that follows a field between its samples and the data.

python -m experiments.train --config=configs/few_step/drifting.py:digits \
    --workdir=runs/drifting

After the colon a data set, two_moons where it is left out. Deng et al., 2026, arXiv:2602.04770.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "drifting")
