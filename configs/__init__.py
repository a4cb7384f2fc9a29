"""Configs: plain data, one file a run."""
