"""Self-distillation by the Eulerian condition: the map stays as its start moves along the flow.

python -m experiments.train --config=configs/few_step/eulerian.py:digits --workdir=runs/eulerian

After the colon a data set, two_moons where it is left out. Boffi et al., 2025, arXiv:2505.18825.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "eulerian")
