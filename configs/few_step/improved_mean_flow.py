r"""Improved MeanFlow: a regression whose target no network makes.

python -m experiments.train --config=configs/few_step/improved_mean_flow.py:digits \
    --workdir=runs/improved

After the colon a data set, two_moons where it is left out; `imagenet_latents` has what was
published for iMF-B/2, scale and interval of guidance as conditions among it. Its network is told
conditions by adaptive norms, not by tokens of their own, and has no second head for the velocity.
Geng et al., 2025, arXiv:2512.02012, and its published code.
"""

from ml_collections import ConfigDict

from configs.few_step.methods import few_step_of

AN_EPOCH = 1_251  # steps of 1,024 images


def get_config(data: str = "two_moons") -> ConfigDict:
    config = few_step_of(data, "improved_mean_flow")
    return _published(config) if data == "imagenet_latents" else config


def _published(config: ConfigDict) -> ConfigDict:
    config.batch_size = 1_024
    config.steps = 640 * AN_EPOCH
    config.guided.most = 8.0
    rate = {"name": "constant", "kwargs": {"peak": 1e-4, "warmup": 10 * AN_EPOCH}}
    with config.unlocked(), config.ignore_type():
        config.optimizer.kwargs = {"learning_rate": rate, "b2": 0.95}
        config.sampler.guidance = {
            "name": "classifier_free",
            "kwargs": {"scale": 7.5, "interval": (0.35, 0.6)},  # theirs, mirrored in time
        }
    return config
