r"""Progressive distillation, a round: one step is two of the teacher's, a flow or a flow map.

python -m experiments.train --config=configs/few_step/progressive.py:digits \
    --workdir=runs/progressive --config.teacher=runs/digits --config.start=runs/digits

After the colon a data set, two_moons where it is left out. Salimans and Ho, 2022, arXiv:2202.00512.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "progressive")
