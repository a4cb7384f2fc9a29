"""Configs of flow maps: METHOD_DATA.py, each the config of its data with `methods.few_step`."""
