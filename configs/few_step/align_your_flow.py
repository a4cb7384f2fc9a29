r"""A trained flow as a flow map, by Align Your Flow's bounded steps.

python -m experiments.train --config=configs/few_step/align_your_flow.py:digits \
    --workdir=runs/align_your_flow --config.teacher=runs/digits --config.start=runs/digits

After the colon a data set, two_moons where it is left out. Sabour et al., 2025, arXiv:2506.14603.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of


def get_config(data: str = "two_moons") -> ConfigDict:
    return few_step_of(data, "align_your_flow")
