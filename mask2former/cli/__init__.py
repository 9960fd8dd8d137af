"""The verbs of the command `mask2former`, and commands of their own: those with a `main`."""
