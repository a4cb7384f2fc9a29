"""ImageNet at 256 x 256 in the latents of an autoencoder, by SiT-B/2's recipe, for TPUs and GPUs.

    python -m experiments.prepare --dataset=npz --source=imagenet_latents.npz --test_share=0.01
    python -m experiments.train   --config=configs/imagenet_latents.py --workdir=gs://BUCKET/runs/sit

The file holds `x1 [n, 32, 32, 4]`, the latents times their scale (0.18215 for Stable Diffusion's
autoencoder), so that they deviate by about 1, and `label [n]`, from 0 to 999; it is read into
memory, once. Samples are latents as well: decode them by the same autoencoder.

Ma et al., 2024, SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant
Transformers, arXiv:2401.08740, appendix: batches of 256, a constant rate of 1e-4, an average with
decay .9999, labels dropped at .1. None of its figures is claimed here until it has been run.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 400_000
    config.batch_size = 256

    config.data = {
        "source": {
            "name": "tfds",
            "kwargs": {
                "name": "imagenet_latents",
                "split": "train",
                "data_dir": "~/tensorflow_datasets",
            },
        },
        "transforms": (),
        "cond": ("label",),
        "on_device": False,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "normal", "kwargs": {}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {"name": "uniform", "kwargs": {}}
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {"name": "linear", "kwargs": {}}
    config.drop = {"rate": 0.1, "null": {"label": 1_000}}
    config.network = {
        "name": "dit",
        "kwargs": {
            "patch": 2,
            "width": 768,
            "depth": 12,
            "heads": 12,
            "num_classes": 1_000,
            "dtype": "bfloat16",
        },
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "flow_matching", "kwargs": {"prediction": "velocity"}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adam",
        "kwargs": {"learning_rate": {"name": "constant", "kwargs": {"peak": 1e-4}}},
        "clip": 0.0,
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
    config.log = {"every": 100, "pictures_every": 10_000, "wandb_project": ""}
    config.sampler = {
        "name": "fixed_step",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 125}},
            "method": {"name": "heun", "kwargs": {}},
            "precision": "network",
        },
        "guidance": 1.5,
        "batch_size": 100,
    }
    config.evaluation = {"split": "test", "num": 10_000, "likelihoods": 0, "dequantisations": 1}
    return config
