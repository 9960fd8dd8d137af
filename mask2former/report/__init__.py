"""Reports of evaluations and of training runs."""
