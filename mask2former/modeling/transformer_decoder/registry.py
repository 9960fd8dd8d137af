"""Registry of transformer decoders, chosen by MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."""

from detectron2.utils.registry import Registry

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Transformer decoders: called with (cfg, in_channels) they return a module from a map, or a list of
maps from coarse to fine, and mask features to ``{"pred_logits", "pred_masks", "aux_outputs"}``. A
class may say by ``multi_scale`` which of the two it takes.
"""
