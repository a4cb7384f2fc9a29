"""From a config to checked objects: what `build` makes of it, and what `check` refuses."""
