"""Configs of flow maps, a file a method, each of the data set that stands after its colon."""
