"""Drawing instances, panoptic segments and semantic maps on images."""
