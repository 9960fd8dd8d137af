"""The one convention for sizes: height before width."""

Size = tuple[int, int]  # (height, width), in pixels
