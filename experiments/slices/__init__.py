"""Slices that are not here: what a run compiles to on them, what it costs, which layout suits."""
