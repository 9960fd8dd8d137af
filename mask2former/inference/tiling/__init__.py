"""Large images, tile by tile: objects are joined across tiles, and class scores are blended."""
