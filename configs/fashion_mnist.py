"""Class-conditional Fashion-MNIST by a small DiT, sized for two cores.

python -m experiments.prepare --dataset=fashion_mnist --source=DIR
python -m experiments.train   --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 4_000
    config.batch_size = 64

    config.data = {
        "source": {
            "name": "tfds",
            "kwargs": {
                "name": "fashion_mnist",
                "split": "train",
                "data_dir": "~/tensorflow_datasets",
            },
        },
        "transforms": (
            {"name": "flip", "kwargs": {}},
            {"name": "scale", "kwargs": {"levels": 256}},
        ),
        "cond": ("label",),
        "on_device": False,
        "workers": 0,
    }
    config.source = {"name": "normal", "kwargs": {}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {"name": "logit_normal", "kwargs": {"mean": 0.0, "std": 1.0}}
    config.path = {"name": "linear", "kwargs": {}}
    config.drop = {"rate": 0.1, "null": {"label": 10}}
    config.network = {
        "name": "dit",
        "kwargs": {"patch": 4, "width": 128, "depth": 4, "heads": 4, "num_classes": 10},
    }
    config.loss = {"name": "flow_matching", "kwargs": {"prediction": "velocity"}}
    config.optimizer = {
        "name": "adam",
        "kwargs": {"learning_rate": {"name": "cosine", "kwargs": {"peak": 1e-3, "warmup": 300}}},
        "clip": 1.0,
        "ema_decay": 0.999,
    }
    config.parallel = {"layout": "data", "mode": "jit", "microbatches": 1, "steps_per_call": 1}
    config.checkpoint = {"every": 1_000, "keep": 2}
    config.log = {"every": 50, "pictures_every": 1_000, "wandb_project": ""}
    config.sampler = {
        "name": "fixed_step",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 25}},
            "method": {"name": "heun", "kwargs": {}},
        },
        "guidance": 1.5,
        "batch_size": 250,
    }
    config.evaluation = {"split": "test", "num": 2_000, "likelihoods": 0}
    return config
