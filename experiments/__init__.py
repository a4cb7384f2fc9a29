"""Entry points: `prepare`, `train`, `sample` and `evaluate`, each `python -m experiments.NAME`."""
