"""The same weights and image give the same numbers here and in transformers, layer by layer.

What is compared: the backbone's features, the pixel decoder's, and class and mask logits after
every decoder layer. They agree to within rounding, about 1e-6 of the largest value, also for sizes
that both pad within the backbone.

In one place rounding is not small: a query attends where its mask's probability is at least 0.5. A
logit of 1e-6 here may be -1e-6 there. (Ours takes it from resized mask features, theirs resizes the
mask, which is the same but for rounding.)

Such a pixel is one key more or less among a query's few hundred, and from then on some 1e-3 in
all logits of an untrained model. (In a trained model, whose logits are not tiny, there are
thousands of times fewer.) The tests hold that masks differ in such pixels only, a few of a whole
model, and that with ours imposed on theirs there is no other difference.
"""

import pytest
import torch
from detectron2.modeling import build_model
from hf_models import (
    BACKBONES,
    config_of_hf_folder,
    model_config,
    published_config,
    random_model,
    save,
)
from torch.nn import functional as F

from mask2former.checkpoint import load_weights
from mask2former.checkpoint.huggingface.weight_names import hf_to_d2
from mask2former.modeling.transformer_decoder.mask2former_decoder import attention_mask

TOLERANCE = 1e-5  # of the largest value; the project's aim is 1e-4 for features, 1e-3 for logits


def random_image(*shape):
    """Draw an image so smooth that features differ between places."""
    batch, height, width = shape
    torch.manual_seed(0)
    coarse = torch.randn(batch, 3, height // 16, width // 16)
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


@torch.no_grad()
def pair(config, folder, image):
    """Return a model of theirs with random weights, and ours with the weights of its folder.

    The mask features get a mean of 0 over the image, so that every query's mask is part of it.
    """
    theirs = random_model(config)
    pixel_level = theirs.model.pixel_level_module
    mean = pixel_level(image).decoder_last_hidden_state.mean((0, 2, 3))
    pixel_level.decoder.mask_projection.bias.sub_(mean)
    save(theirs, folder)
    cfg = config_of_hf_folder(folder, "instance")
    cfg.MODEL.DEVICE = "cpu"
    ours = build_model(cfg).eval()
    load_weights(ours, str(folder))
    return theirs, ours


def assert_close(actual, expected, what):
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE, f"{what}: {error:.2e} of the largest value"


def record_masks(predictor):
    """Return a list that collects the mask that each layer attends within, (B, Q, S)."""
    masks = []
    for layer in predictor.transformer_cross_attention_layers:
        layer.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[4]))
    return masks


def impose_masks(mask_predictor, masks):
    """Make theirs attend within `masks`; return a list that collects the counts of changed pixels.

    Fails if theirs differ in more than what rounding explains.
    """
    changed = []
    remaining = iter(masks)

    def hook(_, arguments, output):
        logits, forbidden = output
        ours = next(remaining, None)
        if ours is None:  # the last prediction guides no layer
            return output
        small = F.interpolate(logits, arguments[2], mode="bilinear", align_corners=False)
        heads = len(forbidden) // len(ours)
        theirs = ~forbidden.unflatten(0, (-1, heads))[:, 0]  # (B, Q, S), the same for each head
        theirs |= ~theirs.any(-1, keepdim=True)  # an empty mask, which their decoder lifts
        differing = theirs != ours
        assert (small.flatten(2)[differing].abs() < TOLERANCE * logits.abs().max()).all()
        changed.append(int(differing.sum()))
        return logits, ~ours.repeat_interleave(heads, dim=0)

    mask_predictor.register_forward_hook(hook)
    return changed


@torch.no_grad()
def assert_parity(theirs, ours, image):
    predictor = ours.sem_seg_head.predictor
    masks = record_masks(predictor)
    features = ours.backbone(image)
    mask_features, _, maps = ours.sem_seg_head.pixel_decoder.forward_features(features)
    # intermediate predictions are given in training only; there is no dropout to switch on
    outputs = predictor.train()(maps, mask_features)
    predictions = [*outputs["aux_outputs"], outputs]

    changed = impose_masks(theirs.model.transformer_module.decoder.mask_predictor, masks)
    expected = theirs(pixel_values=image, output_auxiliary_logits=True, output_hidden_states=True)
    wanted = [*expected.auxiliary_logits, expected]
    assert len(masks) == len(changed) == predictor.num_layers
    assert sum(changed) <= 5

    for name, want in zip(features, expected.encoder_hidden_states, strict=True):
        assert_close(features[name], want, name)
    assert_close(mask_features, expected.pixel_decoder_last_hidden_state, "mask features")
    for i, want in enumerate(expected.pixel_decoder_hidden_states):
        assert_close(maps[i], want, f"map {i}")
    for i, (got, want) in enumerate(zip(predictions, wanted, strict=True)):
        assert_close(got["pred_logits"], want["class_queries_logits"], f"classes after layer {i}")
        assert_close(got["pred_masks"], want["masks_queries_logits"], f"masks after layer {i}")
        # masks that cover nothing or all would not test masked attention
        assert 0.2 < (got["pred_masks"] > 0).float().mean() < 0.8


@pytest.mark.parametrize("size", [(128, 160), (97, 131)])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_small_models(backbone, pre_norm, size, tmp_path):
    image = random_image(2, *size)
    config = model_config(BACKBONES[backbone](), pre_norm=pre_norm)
    assert_parity(*pair(config, tmp_path, image), image)


@pytest.mark.parametrize(
    "name",
    [
        "maskformer2_R50_bs16_50ep",
        "maskformer2_swin_tiny_bs16_50ep",
        "maskformer2_swin_base_384_bs16_50ep",
    ],
)
def test_full_size_models(name, tmp_path):
    image = random_image(1, 128, 160)
    assert_parity(*pair(published_config(name), tmp_path, image), image)


def test_the_border_of_a_mask_is_where_theirs_is():
    logits = torch.cat([torch.tensor([0.0, -1e-7]), torch.randn(1000), 1e-5 * torch.randn(1000)])
    theirs = logits.sigmoid() >= 0.5
    assert (theirs != (logits >= 0)).any()
    assert torch.equal(attention_mask(logits[None, None])[0, 0], theirs)


def test_weights_are_those_of_the_folder(tmp_path):
    config = model_config(BACKBONES["resnet"]())
    theirs, ours = pair(config, tmp_path, random_image(1, 64, 64))
    expected = hf_to_d2(theirs.state_dict())
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
