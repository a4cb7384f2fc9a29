"""Self-distillation by the Lagrangian condition: the end moves with the network's own flow.

python -m experiments.train --config=configs/few_step/lagrangian.py:digits --workdir=runs/lagrangian

After the colon a data set, two_moons where it is left out. Boffi et al., 2025, arXiv:2505.18825.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "lagrangian")
