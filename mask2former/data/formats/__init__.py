"""Formats of a user's own data: each module recognises, reads and writes one of them.

`reading` is what readers collect, `source` what recognises a folder, `converted` the data that
training takes, and `maps` the label maps.
"""
