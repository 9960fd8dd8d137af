"""Writing a data set in each of the formats; `convert` is the entrance."""
