r"""A trained flow as a flow map, by the Eulerian condition along the teacher's velocity.

python -m experiments.train --config=configs/few_step/eulerian_distillation.py:digits \
    --workdir=runs/eulerian_distillation --config.teacher=runs/digits --config.start=runs/digits

After the colon a data set, two_moons where it is left out. Boffi et al., 2024, arXiv:2406.07507.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "eulerian_distillation")
