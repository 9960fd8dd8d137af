"""Config keys that this package adds to Detectron2's, with their defaults.

Names and defaults are those of the published Mask2Former configs, so published YAML files load
unchanged. A default is therefore not always the recommended value: `configs/` holds those.
"""

from detectron2.config import CfgNode


def add_maskformer2_config(cfg: CfgNode) -> None:
    """Add every Mask2Former key to `cfg`, in place.

    Args:
        cfg: a config as `detectron2.config.get_cfg()` returns it.
    """
    _add_input_keys(cfg)
    _add_solver_keys(cfg)
    _add_mask_former_keys(cfg)
    _add_pixel_decoder_keys(cfg)
    _add_swin_keys(cfg)
    _add_keys_only_published_files_need(cfg)


def _add_input_keys(cfg: CfgNode) -> None:
    # What turns a dataset dict into a training sample: targets and augmentations, one of
    # coco_{instance,panoptic}_lsj and mask_former_{instance,panoptic,semantic}.
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    # Large-scale jitter (LSJ): resize by a random factor of IMAGE_SIZE between MIN_SCALE and
    # MAX_SCALE, then crop or pad to IMAGE_SIZE x IMAGE_SIZE pixels.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # The mask_former_* mappers. Colour augmentation of SSD: brightness, contrast, saturation, hue.
    cfg.INPUT.COLOR_AUG_SSD = False
    # A random crop is drawn again while one class covers more than this share of it.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Training images are padded to a multiple of this; -1 does not pad.
    cfg.INPUT.SIZE_DIVISIBILITY = -1


def _add_solver_keys(cfg: CfgNode) -> None:
    # "ADAMW" (the paper's) or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Learning rate of the backbone's parameters, relative to SOLVER.BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Weight decay of embeddings: queries, level embedding. WEIGHT_DECAY_NORM does norm layers.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Batches per optimizer step. Their gradients are averaged, so on a machine that fits a
    # quarter of the batch, IMS_PER_BATCH 4 and ACCUMULATE_STEPS 4 train as IMS_PER_BATCH 16.
    # An iteration, which MAX_ITER and STEPS count, is one optimizer step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1


def _add_mask_former_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_FORMER = CfgNode()

    # Loss: weights of the terms. Deep supervision adds them for every intermediate prediction.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    # Weight of the "no object" class within the classification loss.
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 20.0

    # Mask losses and matching costs are taken at this many points of each mask.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 12544
    # Importance sampling for the loss: draw OVERSAMPLE_RATIO times as many candidates, keep the
    # most uncertain for this share of the points, draw the rest uniformly (PointRend, 3.1).
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75

    # Transformer decoder: its registered name and what it attends to. The multi-scale decoder
    # takes "multi_scale_pixel_decoder"; StandardTransformerDecoder takes the name of a feature of
    # the backbone, "transformer_encoder" (the output of TransformerEncoderPixelDecoder's encoder)
    # or "pixel_embedding" (the mask features).
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 100
    # Number of predictions. In the multi-scale decoder 10 means 9 layers and one prediction from
    # the initial queries; StandardTransformerDecoder has as many layers as predictions.
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 6
    # StandardTransformerDecoder: transformer encoder layers ahead of the decoder.
    cfg.MODEL.MASK_FORMER.ENC_LAYERS = 0
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    # Dropout of the pixel decoder's encoder and of StandardTransformerDecoder. The multi-scale
    # decoder never uses dropout.
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.1
    # Normalise before attention and feed-forward rather than after.
    cfg.MODEL.MASK_FORMER.PRE_NORM = False
    # Project the decoder's input by a 1x1 convolution even where the widths already agree.
    cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = False

    # A batch is padded to a multiple of this; 0 pads to its largest image only, a negative value
    # to the multiple that the backbone asks for.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 32

    # What inference returns: any of the three, at least one. With PANOPTIC_ON instances are of
    # thing classes only.
    cfg.MODEL.MASK_FORMER.TEST = CfgNode()
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    # Panoptic: a query takes part when its class score exceeds the first threshold, and its
    # segment stays when it wins at least this share of its mask's pixels against other queries.
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.0
    # Semantic: resize to the original image before, not after, combining the queries. Always so
    # with PANOPTIC_ON or INSTANCE_ON.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_pixel_decoder_keys(cfg: CfgNode) -> None:
    # Registered name of the pixel decoder: MSDeformAttnPixelDecoder (Mask2Former's),
    # BasePixelDecoder (FPN), TransformerEncoderPixelDecoder (FPN over a transformer encoder),
    # SemanticFPNPixelDecoder, BiFPNPixelDecoder or FaPNPixelDecoder.
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "BasePixelDecoder"
    # Channels of the mask features, which are also those of the mask embedding of each query.
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # Layers of the transformer encoder within MSDeformAttn- or TransformerEncoderPixelDecoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 0
    # BiFPNPixelDecoder: passes from coarse to fine and back. EfficientDet-D4 and D5, which are a
    # little narrower and a little wider than 256 channels, have 7.
    cfg.MODEL.SEM_SEG_HEAD.BIFPN_LAYERS = 7
    # MSDeformAttnPixelDecoder: levels its encoder attends over, and the heads and the sampling
    # points (for each head and level) of the deformable attention.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    # Hidden channels of its feed-forward networks, 1024 in every published model.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD = 1024


def _add_swin_keys(cfg: CfgNode) -> None:
    # Arguments of D2SwinTransformer; the defaults are Swin-T's.
    cfg.MODEL.SWIN = CfgNode()
    # Image size of the pre-training, in pixels: sets the shape of the absolute embedding (APE).
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224
    # Side of a patch, in pixels.
    cfg.MODEL.SWIN.PATCH_SIZE = 4
    # Channels of the first stage; each later stage doubles them.
    cfg.MODEL.SWIN.EMBED_DIM = 96
    # Blocks and attention heads of each stage.
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    # Side of an attention window, in patches.
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Hidden channels of a block's MLP, relative to the block's.
    cfg.MODEL.SWIN.MLP_RATIO = 4.0
    # Bias of the query, key and value projections; factor on q.k, where None is 1/sqrt(head dim).
    cfg.MODEL.SWIN.QKV_BIAS = True
    cfg.MODEL.SWIN.QK_SCALE = None
    # Dropout after projections, dropout of attention weights, and stochastic depth of the last
    # block (it grows linearly from 0 at the first).
    cfg.MODEL.SWIN.DROP_RATE = 0.0
    cfg.MODEL.SWIN.ATTN_DROP_RATE = 0.0
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    # Add a learnable absolute position embedding to the patches.
    cfg.MODEL.SWIN.APE = False
    # LayerNorm after the patch embedding.
    cfg.MODEL.SWIN.PATCH_NORM = True
    # Stages whose output, with a LayerNorm, the backbone returns.
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute each block in the backward pass: less memory for about a third more time.
    cfg.MODEL.SWIN.USE_CHECKPOINT = False


def _add_keys_only_published_files_need(cfg: CfgNode) -> None:
    """Add the keys that nothing in this package reads.

    They exist so that published YAML files, which mention them, load. A test holds that every
    key added outside this function is read by the package.
    """
    # --- Read by Detectron2's own DeepLab project ---
    # `build_resnet_deeplab_backbone`:
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]
    # "basic" or "deeplab".
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"
    # `build_lr_scheduler` with "WarmupPolyLR":
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    # Its segmentation heads; Mask2Former has no such head.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "hard_pixel_mining"
    cfg.MODEL.SEM_SEG_HEAD.PROJECT_FEATURES = ["res2"]
    cfg.MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS = [48]
    cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS = 256
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [6, 12, 18]
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.1
    cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV = False
