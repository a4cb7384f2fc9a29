r"""A trained flow as a one-step generator, by distribution matching with a critic.

python -m experiments.train --config=configs/few_step/distribution_matching.py:digits \
    --workdir=runs/distribution_matching --config.teacher=runs/digits --config.start=runs/digits

After the colon a data set, two_moons where it is left out. Yin et al., 2024, arXiv:2405.14867.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "distribution_matching")
