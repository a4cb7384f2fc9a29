r"""A trained flow as a consistency model, in continuous time.

python -m experiments.train --config=configs/few_step/consistency_distillation.py:digits \
    --workdir=runs/consistency_distillation --config.teacher=runs/digits --config.start=runs/digits

After the colon a data set, two_moons where it is left out. Lu and Song, 2024, arXiv:2410.11081.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "consistency_distillation")
