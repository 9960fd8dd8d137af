"""Where a run writes: the console, files, and trackers of experiments."""
