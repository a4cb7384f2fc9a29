"""Shortcut models: one step is two of half its length, by the average of the parameters.

python -m experiments.train --config=configs/few_step/shortcut.py:digits --workdir=runs/shortcut

After the colon a data set, two_moons where it is left out. Frans et al., 2024, arXiv:2410.12557.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "shortcut")
