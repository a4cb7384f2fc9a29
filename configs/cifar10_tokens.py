"""CIFAR-10 with every channel of a pixel a token of 256, by masks; the same on CPU, GPU and TPU.

    python -m experiments.prepare  --dataset=cifar10 --source=cifar-10-batches-bin
    python -m experiments.train    --config=configs/cifar10_tokens.py --workdir=runs/cifar10_tokens
    python -m experiments.sample   --workdir=runs/cifar10_tokens --num=100 --output=samples.npz
    python -m experiments.evaluate --workdir=runs/cifar10_tokens

The U-Net of configs/cifar10.py over vectors of its tokens, with cross-entropy on a cubic schedule,
after Gat et al., 2024, arXiv:2407.15595, section 4.4, whose repository reports an FID of 3.58; none
is claimed here. `evaluate` tells the bits a dimension too, `bits_per_token`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 400_000
    config.batch_size = 128

    config.data = {
        "source": {
            "name": "tfds",
            "kwargs": {"name": "cifar10", "split": "train", "data_dir": "~/tensorflow_datasets"},
        },
        "transforms": (
            {"name": "flip", "kwargs": {}},
            {"name": "tokens", "kwargs": {"levels": 256}},
        ),
        "cond": (),
        "on_device": False,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "mask", "kwargs": {"token": 256}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {
        "name": "stratified",
        "kwargs": {"times": {"name": "uniform", "kwargs": {}}},
    }
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {
        "name": "mixture",
        "kwargs": {"kappa": {"name": "polynomial", "kwargs": {"n": 3.0}}},
    }
    config.drop = {"rate": 0.0, "null": {}}
    config.network = {
        "name": "discrete",
        "kwargs": {
            "network": {"name": "unet", "kwargs": {"dropout": 0.1, "dtype": "bfloat16"}},
            "vocabulary": 256,
            "features": 16,
        },
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "cross_entropy", "kwargs": {}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adam",
        "kwargs": {
            "learning_rate": {"name": "constant", "kwargs": {"peak": 2e-4, "warmup": 5_000}}
        },
        "clip": 1.0,
        "ema_decay": 0.9999,
        "spike_deviations": 0.0,
    }
    config.parallel = {
        "layout": "data",
        "axes": {"fsdp": 1, "tensor": 1},
        "mode": "jit",
        "microbatches": 1,
        "reduce_dtype": "",
        "keep_gathered": False,
        "steps_per_call": 1,
    }
    config.checkpoint = {"every": 5_000, "keep": 3, "keep_every": 0, "best": ""}
    config.health = {
        "abort_after": 20,
        "rollbacks": 0,
        "stall_seconds": 1_800,
    }
    config.log = {"every": 100, "pictures_every": 5_000, "wandb_project": ""}
    config.sampler = {
        "name": "jumps",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 256}},
            "method": {"name": "forth_and_back", "kwargs": {"churn": 0.5}},
            "precision": "network",
        },
        "guidance": 1.0,
        "batch_size": 100,
    }
    config.evaluation = {"split": "test", "num": 10_000, "likelihoods": 0, "dequantisations": 1}
    return config
