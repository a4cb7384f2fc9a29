"""Class-conditional Fashion-MNIST by a small U-Net, sized for two cores, each a device of its own.

export JAX_NUM_CPU_DEVICES=2 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
python -m experiments.prepare  --dataset=fashion_mnist --source=DIR
python -m experiments.train    --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist
python -m experiments.sample   --workdir=runs/fashion_mnist --num=1000 --output=samples.npz
python -m experiments.evaluate --workdir=runs/fashion_mnist
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 2_500
    config.batch_size = 32

    config.data = {
        "source": {
            "name": "tfds",
            "kwargs": {
                "name": "fashion_mnist",
                "split": "train",
                "data_dir": "~/tensorflow_datasets",
            },
        },
        "transforms": ({"name": "scale", "kwargs": {"levels": 256}},),
        "cond": ("label",),
        "on_device": False,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "normal", "kwargs": {}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {"name": "logit_normal", "kwargs": {"mean": 0.0, "std": 1.0}}
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {"name": "linear", "kwargs": {}}
    config.drop = {"rate": 0.1, "null": {"label": 10}}
    config.network = {
        "name": "unet",
        "kwargs": {
            "channels": 32,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "attention": (),
            "num_classes": 10,
        },
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "flow_matching", "kwargs": {"prediction": "velocity"}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adam",
        "kwargs": {"learning_rate": {"name": "cosine", "kwargs": {"peak": 1e-3, "warmup": 100}}},
        "clip": 1.0,
        "ema_decay": 0.998,
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
    config.checkpoint = {"every": 500, "keep": 2, "keep_every": 0, "best": ""}
    config.health = {
        "abort_after": 20,
        "rollbacks": 0,
        "stall_seconds": 1_800,
    }
    config.log = {"every": 50, "pictures_every": 1_250, "wandb_project": ""}
    config.sampler = {
        "name": "fixed_step",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 16}},
            "method": {"name": "ab2", "kwargs": {}},
            "precision": "network",
        },
        "guidance": 1.5,
        "batch_size": 250,
    }
    config.evaluation = {"split": "test", "num": 1_000, "likelihoods": 0, "dequantisations": 1}
    return config
