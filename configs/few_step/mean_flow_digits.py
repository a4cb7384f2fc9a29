"""MeanFlow on 8 x 8 digits: a digit in one call.

python -m experiments.train  --config=configs/few_step/mean_flow_digits.py --workdir=runs/mean_flow
python -m experiments.sample --workdir=runs/mean_flow --num=1000 --output=runs/mean_flow/samples.npz
"""

from ml_collections import ConfigDict

from configs import digits
from configs.few_step.methods import few_step


def get_config() -> ConfigDict:
    return few_step(digits.get_config(), "mean_flow")
