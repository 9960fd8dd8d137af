"""Config keys that this package adds to Detectron2's, with their defaults.

Names and defaults are those of the published Mask2Former configs, so published YAML files load
unchanged. A default is therefore not always the recommended value: `configs/` holds those.

The comment above a key describes it in the documentation. Keys that follow one another without a
comment or an empty line between them share one.
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
    _add_piloted_keys(cfg)
    _add_annealing_keys(cfg)
    _add_inference_keys(cfg)
    _add_pixel_decoder_keys(cfg)
    _add_swin_keys(cfg)
    _add_timm_keys(cfg)
    _add_keys_only_published_files_need(cfg)


def _add_input_keys(cfg: CfgNode) -> None:
    # What turns a dataset dict into a training sample (targets and augmentations): one of
    # coco_instance_lsj, coco_panoptic_lsj, mask_former_instance, mask_former_panoptic and
    # mask_former_semantic.
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    # The coco_*_lsj mappers: side in pixels of the square that training images are cropped or
    # padded to.
    cfg.INPUT.IMAGE_SIZE = 1024
    # Large-scale jitter (LSJ) of the coco_*_lsj mappers: before the crop, an image is resized to
    # IMAGE_SIZE times a random factor between these two.
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # The mask_former_* mappers: change brightness, contrast, saturation and hue at random, as SSD
    # does.
    cfg.INPUT.COLOR_AUG_SSD = False
    # The mask_former_* mappers: draw a random crop again while one class covers more than this
    # share of it, 0 to 1.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # The mask_former_* mappers: pad training images to a multiple of this, in pixels; -1 does not
    # pad.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # Augmentation for a kind of images, on top of resizing and crop: "photographs", "aerial",
    # "microscopy" or "documents" (drawings, too). It decides on flips instead of RANDOM_FLIP. ""
    # adds nothing.
    cfg.INPUT.AUGMENTATION = ""
    # A pipeline of Albumentations that is applied to the resized and cropped image and its masks:
    # a JSON or YAML file as albumentations.save writes it. "" applies none.
    cfg.INPUT.ALBUMENTATIONS = ""
    # Windows around objects, for images that are far larger than the training crop: probability, 0
    # to 1, that a window is cut out of a training image before all else. It holds an object of a
    # class that is drawn first. Its side is random, between that of the training crop and that of
    # the image.
    cfg.INPUT.OBJECT_CROP = 0.0
    # Copy-paste augmentation of instances: probability, 0 to 1, that a training image gets objects
    # of another one, each in a random place. They hide what is below them.
    cfg.INPUT.COPY_PASTE = 0.0
    # A training image that cannot be used, because a file of it is damaged or does not fit: "stop"
    # ends the run, "skip" takes another image in its place, logs the file and counts it in the
    # metric bad_images.
    cfg.DATALOADER.BAD_IMAGES = "stop"


def _add_solver_keys(cfg: CfgNode) -> None:
    # Optimizer: "ADAMW" (the paper's) or "SGD".
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Learning rate of the backbone's parameters, relative to SOLVER.BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Learning rate of each layer of the backbone relative to that of the layer behind it, above 0
    # and at most 1. With less than 1, layers near the image learn more slowly; this needs
    # TimmBackbone.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # With LR_SCHEDULER_NAME WarmupPolyLR: the exponent of the decay, and the least multiple of the
    # rate.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    # Weight decay of embeddings, such as queries and the level embedding. That of norm layers is
    # SOLVER.WEIGHT_DECAY_NORM.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Batches per optimizer step. Their gradients are averaged, so on a machine that fits a
    # quarter of the batch, SOLVER.IMS_PER_BATCH 4 and SOLVER.ACCUMULATE_STEPS 4 train as
    # SOLVER.IMS_PER_BATCH 16. An iteration, which SOLVER.MAX_ITER and SOLVER.STEPS count, is one
    # optimizer step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Save a checkpoint after this many minutes at the latest, whatever SOLVER.CHECKPOINT_PERIOD
    # says; 0 sets no limit.
    cfg.SOLVER.CHECKPOINT_PERIOD_MINUTES = 0.0
    # Keep only this many of the newest periodic checkpoints; 0 keeps all. model_final.pth and
    # model_best.pth do not count.
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 0
    # Keep the weights with the highest value of this metric in model_best.pth: a name as in
    # metrics.json, such as "segm/AP". Each evaluation (TEST.EVAL_PERIOD) is compared.
    cfg.SOLVER.BEST_METRIC = ""
    # End the run after this many evaluations in a row without a better value of SOLVER.BEST_METRIC,
    # which must be set, as TEST.EVAL_PERIOD must; 0 trains to SOLVER.MAX_ITER.
    cfg.SOLVER.EARLY_STOPPING_PATIENCE = 0
    # Average the weights over the steps, and evaluate the average beside the weights (metrics
    # "ema/..."): after step n, the average keeps this share of itself, at least 0 and below 1, or
    # (1 + n) / (10 + n) if that is less. model_final_ema.pth holds the average of the last step. 0
    # does not average; 0.999 suits runs of some thousand steps.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Where training writes its metrics: "tensorboard", "json" (metrics.json, which reports and
    # plots read), "csv" (metrics.csv), and the trackers "wandb", "mlflow" and "trackio". A resumed
    # run continues its curves in all of them.
    cfg.LOGGERS = ["tensorboard", "json", "csv"]


def _add_mask_former_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_FORMER = CfgNode()

    # Add the losses of every intermediate prediction to those of the last one.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    # Weight of the "no object" class within the classification loss.
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    # Weights of the classes within the classification loss, one for each class of the data set;
    # [] gives all the weight 1. Only ratios matter, to each other and to NO_OBJECT_WEIGHT.
    cfg.MODEL.MASK_FORMER.CLASS_LOSS_WEIGHTS = []
    # Leave out of the mask losses and of the matching what nobody labelled: pixels without a class
    # (255) in label maps, pixels of no segment, and crowd regions outside the objects. A query that
    # matches nothing and whose mask is mostly on such pixels is not trained to be "no object".
    # False takes them for pixels outside every object, as the published models were trained.
    cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = False
    # Weights of the three terms of the loss and of the matching cost: cross-entropy of classes,
    # dice loss and binary cross-entropy of masks.
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 20.0

    # Points per mask at which mask losses and matching costs are computed.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 12544
    # Importance sampling of the loss's points (PointRend, section 3.1): draw this many times as
    # many candidates as points, at least 1.
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    # Share of the points, 0 to 1, that are the most uncertain candidates. The rest is drawn
    # uniformly.
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75

    # Registered name of the transformer decoder: MultiScaleMaskedTransformerDecoder
    # (Mask2Former's) or StandardTransformerDecoder (MaskFormer's).
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    # What the transformer decoder attends to. The multi-scale decoder takes
    # "multi_scale_pixel_decoder". StandardTransformerDecoder takes the name of a feature of the
    # backbone, "transformer_encoder" (the output of TransformerEncoderPixelDecoder's encoder) or
    # "pixel_embedding" (the mask features).
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    # Number of queries, which is the most objects or segments that the model can predict.
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 100
    # Number of predictions. In the multi-scale decoder 10 means 9 layers and one prediction from
    # the initial queries. StandardTransformerDecoder has as many layers as predictions. With
    # MODEL.SEM_SEG_HEAD.NAME EncoderOnlyHead (EoMT), 5 means that the last 4 blocks of the encoder
    # have queries.
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 6
    # Transformer encoder layers ahead of the layers of StandardTransformerDecoder.
    cfg.MODEL.MASK_FORMER.ENC_LAYERS = 0
    # Channels of the queries in the transformer decoder, a multiple of NHEADS.
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    # Attention heads of the transformer decoder and of TransformerEncoderPixelDecoder.
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    # Hidden channels of the feed-forward networks of the transformer decoder and of
    # TransformerEncoderPixelDecoder.
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    # Dropout, 0 to 1, of the pixel decoder's encoder and of StandardTransformerDecoder. The
    # multi-scale decoder never uses dropout.
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.1
    # Normalise before attention and feed-forward rather than after.
    cfg.MODEL.MASK_FORMER.PRE_NORM = False
    # Project the decoder's input by a 1x1 convolution even where the widths already agree.
    cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = False

    # Pad a batch to a multiple of this, in pixels. 0 pads to its largest image only, and a
    # negative value to the multiple that the backbone asks for.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 32


def _add_piloted_keys(cfg: CfgNode) -> None:
    # Mask-piloted training (MP-Former, arXiv 2303.07336), for MultiScaleMaskedTransformerDecoder:
    # groups of extra queries, one for each object or segment, that are given its class and its
    # mask, with noise, and learn to find it. Inference does not use them. 0 is without.
    cfg.MODEL.MASK_FORMER.PILOTED = CfgNode()
    cfg.MODEL.MASK_FORMER.PILOTED.GROUPS = 0
    # Most extra queries per image. An image that would have more has fewer groups, and at last a
    # random choice of its objects.
    cfg.MODEL.MASK_FORMER.PILOTED.MAX_QUERIES = 100
    # Share of the extra queries, 0 to 1, that are given a random class.
    cfg.MODEL.MASK_FORMER.PILOTED.LABEL_NOISE = 0.2
    # Noise of the given masks, and how strong it is, 0 to 1: "point" turns random positions over,
    # MASK_NOISE times as many as the mask has; "shift" moves a mask by up to MASK_NOISE times half
    # its size; "scale" resizes it by up to 1 + MASK_NOISE, in both directions.
    cfg.MODEL.MASK_FORMER.PILOTED.NOISE = "point"
    cfg.MODEL.MASK_FORMER.PILOTED.MASK_NOISE = 0.2
    # Layers, from the first, in which the extra queries attend within the given masks, -1 for all.
    # In the others they attend within the masks that they predicted.
    cfg.MODEL.MASK_FORMER.PILOTED.MASK_LAYERS = -1


def _add_annealing_keys(cfg: CfgNode) -> None:
    # Mask annealing (EoMT) of MultiScaleMaskedTransformerDecoder: in the course of training, layer
    # after layer stops attending within masks, so that inference needs none and is faster.
    cfg.MODEL.MASK_FORMER.ANNEALING = CfgNode()
    cfg.MODEL.MASK_FORMER.ANNEALING.ENABLED = False
    # Shares of SOLVER.MAX_ITER, 0 to 1, at which the first layer begins to lose its masks, and at
    # which the last one has lost them. To go on training a model without masks, set both to 0.
    cfg.MODEL.MASK_FORMER.ANNEALING.START = 0.167
    cfg.MODEL.MASK_FORMER.ANNEALING.END = 0.833
    # In its part of this time, t from 0 to 1, a layer uses masks with probability (1 - t) ** POWER.
    cfg.MODEL.MASK_FORMER.ANNEALING.POWER = 0.9


def _add_inference_keys(cfg: CfgNode) -> None:
    # What inference returns: at least one of the three. With PANOPTIC_ON, instances are of thing
    # classes only.
    cfg.MODEL.MASK_FORMER.TEST = CfgNode()
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    # Panoptic inference: a query takes part if the score of its class, 0 to 1, exceeds this.
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    # Panoptic inference: a segment stays if it wins at least this share, 0 to 1, of its mask's
    # pixels against the other queries.
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.0
    # MultiScaleMaskedTransformerDecoder: use the prediction of this number instead of the last one,
    # counted as in DEC_LAYERS; 0 uses the last. Fewer layers are faster and less accurate.
    cfg.MODEL.MASK_FORMER.TEST.DEC_LAYERS = 0
    # Semantic inference: resize masks to the original image before, not after, combining the
    # queries. With PANOPTIC_ON or INSTANCE_ON this is always so.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    # Instances: of two of one class whose masks have a greater IoU than this, 0 to 1, keep only the
    # one with the higher score. 1 keeps both, as the published models do, which hardly predict an
    # object twice.
    cfg.TEST.MASK_NMS = 1.0
    # Write report.html into OUTPUT_DIR when training ends: curves, labels and samples of the
    # training data, and what the last evaluation found. It does not change any number.
    cfg.TEST.REPORT = True
    # Evaluations in training compute the losses on DATASETS.TEST, too (metrics "validation/..."):
    # means per image at the size of inference, without augmentation.
    cfg.TEST.VALIDATION_LOSS = False


def _add_pixel_decoder_keys(cfg: CfgNode) -> None:
    # Registered name of the pixel decoder: MSDeformAttnPixelDecoder (Mask2Former's),
    # BasePixelDecoder (FPN), TransformerEncoderPixelDecoder (FPN over a transformer encoder),
    # SemanticFPNPixelDecoder, BiFPNPixelDecoder, FaPNPixelDecoder, or ProjectionPixelDecoder, which
    # takes the maps of the backbone as they are.
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "BasePixelDecoder"
    # Channels of the mask features, which are also those of the mask embedding of each query.
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # Layers of the transformer encoder in MSDeformAttnPixelDecoder and
    # TransformerEncoderPixelDecoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 0
    # BiFPNPixelDecoder: passes from coarse to fine and back. EfficientDet-D4 and D5, which are a
    # little narrower and a little wider than 256 channels, have 7.
    cfg.MODEL.SEM_SEG_HEAD.BIFPN_LAYERS = 7
    # MSDeformAttnPixelDecoder: features of the backbone that its encoder attends over.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    # MSDeformAttnPixelDecoder: heads of the deformable attention.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8
    # MSDeformAttnPixelDecoder: sampling points per query, head and level.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    # MSDeformAttnPixelDecoder: hidden channels of the feed-forward networks, 1024 in every
    # published model.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD = 1024


def _add_swin_keys(cfg: CfgNode) -> None:
    # Arguments of D2SwinTransformer; the defaults are Swin-T's.
    cfg.MODEL.SWIN = CfgNode()
    # Image size of the pre-training, in pixels. It sets the shape of the absolute position
    # embedding (MODEL.SWIN.APE).
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224
    # Side of a patch, in pixels.
    cfg.MODEL.SWIN.PATCH_SIZE = 4
    # Channels of the first stage; each later stage doubles them.
    cfg.MODEL.SWIN.EMBED_DIM = 96
    # Blocks in each stage.
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    # Attention heads in each stage.
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    # Side of an attention window, in patches.
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Hidden channels of a block's MLP, relative to the block's channels.
    cfg.MODEL.SWIN.MLP_RATIO = 4.0
    # Bias in the query, key and value projections.
    cfg.MODEL.SWIN.QKV_BIAS = True
    # Factor on the products of queries and keys; None is 1/sqrt(channels per head).
    cfg.MODEL.SWIN.QK_SCALE = None
    # Dropout, 0 to 1, after projections.
    cfg.MODEL.SWIN.DROP_RATE = 0.0
    # Dropout, 0 to 1, of attention weights.
    cfg.MODEL.SWIN.ATTN_DROP_RATE = 0.0
    # Stochastic depth: probability, 0 to 1, of skipping the last block. It grows linearly from 0
    # at the first block.
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    # Add a learnable absolute position embedding to the patches.
    cfg.MODEL.SWIN.APE = False
    # LayerNorm after the patch embedding.
    cfg.MODEL.SWIN.PATCH_NORM = True
    # Stages whose output, after a LayerNorm, the backbone returns.
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Recompute each block in the backward pass: less memory for about a third more time.
    cfg.MODEL.SWIN.USE_CHECKPOINT = False


def _add_timm_keys(cfg: CfgNode) -> None:
    # Arguments of TimmBackbone.
    cfg.MODEL.TIMM = CfgNode()
    # timm's name of the model, such as "convnextv2_tiny". MODEL.WEIGHTS names the weights.
    cfg.MODEL.TIMM.NAME = ""
    # Stochastic depth: probability, 0 to 1, of skipping the last block. It grows linearly from 0
    # at the first block.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
    # Number of groups of layers, counted from the image, that are not trained: the stem, then each
    # stage, or each block of a vision transformer. -1 freezes the whole encoder, which then takes
    # the memory of inference.
    cfg.MODEL.TIMM.FROZEN_STAGES = 0
    # Use the stored statistics of batch normalisations and do not train them, as Detectron2's
    # ResNets do.
    cfg.MODEL.TIMM.FREEZE_NORM = False
    # A plain vision transformer: image size of its training, in pixels, with patches of 16 pixels,
    # which sets the shape of its absolute position embedding; 0 is timm's.
    cfg.MODEL.TIMM.PRETRAIN_IMG_SIZE = 0
    # Channels of the four maps that are made of the single map of a plain vision transformer.
    cfg.MODEL.TIMM.PYRAMID_DIM = 256
    # Recompute each block in the backward pass: less memory for about a third more time.
    cfg.MODEL.TIMM.USE_CHECKPOINT = False


def _add_keys_only_published_files_need(cfg: CfgNode) -> None:
    """Add the keys that nothing in this package reads.

    They exist so that published YAML files, which mention them, load. Detectron2's own DeepLab
    project reads them. A test checks that the package reads every key added outside this function.
    """
    # `build_resnet_deeplab_backbone`: dilation of res4 and of the blocks of res5.
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]
    # `build_resnet_deeplab_backbone`: first layers, "basic" or "deeplab".
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"
    # DeepLab's segmentation heads. Mask2Former does not have such a head.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "hard_pixel_mining"
    cfg.MODEL.SEM_SEG_HEAD.PROJECT_FEATURES = ["res2"]
    cfg.MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS = [48]
    cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS = 256
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [6, 12, 18]
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.1
    cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV = False
