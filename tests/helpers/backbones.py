"""Backbones of other libraries: random weights, and how they compare with ours."""

import gzip
import json

import torch
from support import FIXTURES
from torch import nn

IMAGE_SIZE = 256
# More than one window in each stage: where one covers the map, the libraries do not shift it.
SWIN = {"embed_dim": 16, "depths": (2, 2, 3, 2), "num_heads": (1, 2, 4, 8), "window_size": 4}
ORIGINAL_BLOCK = {
    "norm1.weight": (1, 0),
    "norm1.bias": (1, 0),
    "attn.qkv.weight": (3, 1),
    "attn.qkv.bias": (3, 0),
    "attn.proj.weight": (1, 1),
    "attn.proj.bias": (1, 0),
    "norm2.weight": (1, 0),
    "norm2.bias": (1, 0),
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4, 0),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1, 0),
}


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Fill all parameters, and the statistics of batch norms, with values that show mistakes."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.normal_(std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.normal_()
    return model.eval()


def fill(model: nn.Module, converted: dict, missing=()) -> nn.Module:
    """Load what `convert_backbone` returned; only `missing` may be left out, nothing left over."""
    assert all(name.startswith("backbone.") for name in converted)
    state = {name.removeprefix("backbone."): value for name, value in converted.items()}
    keys = model.load_state_dict(state, strict=False)
    assert not keys.unexpected_keys
    assert set(keys.missing_keys) == set(missing)
    return model.eval()


def image(height=IMAGE_SIZE, width=IMAGE_SIZE):
    torch.manual_seed(1)
    return torch.randn(1, 3, height, width)


def published(name: str) -> dict[str, list]:
    """Names, shapes and types of the backbone in a published checkpoint."""
    with gzip.open(FIXTURES / "state_dicts" / f"{name}.json.gz") as file:
        tensors = json.load(file)["tensors"]
    return {name: value for name, value in tensors.items() if name.startswith("backbone.")}


def described(state: dict) -> dict[str, list]:
    return {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()}


def original_release(
    embed_dim=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8), window_size=4
) -> dict[str, torch.Tensor]:
    """Random weights under the names of Microsoft's releases."""
    torch.manual_seed(2)
    window_area, rows = window_size**2, (2 * window_size - 1) ** 2
    state = {
        "patch_embed.proj.weight": torch.randn(embed_dim, 3, 4, 4) / 7,
        "patch_embed.proj.bias": torch.randn(embed_dim),
        "patch_embed.norm.weight": torch.rand(embed_dim) + 0.5,
        "patch_embed.norm.bias": torch.randn(embed_dim),
    }
    for i, depth in enumerate(depths):
        channels = embed_dim * 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            for name, (rows_out, columns) in ORIGINAL_BLOCK.items():
                shape = (rows_out * channels, columns * channels)[: 2 if columns else 1]
                scale = (shape[1] if columns else 1) ** -0.5
                state[f"{block}.{name}"] = torch.randn(shape) * scale
            state[f"{block}.attn.relative_position_bias_table"] = torch.randn(rows, num_heads[i])
            state[f"{block}.attn.relative_position_index"] = torch.zeros(
                window_area, window_area, dtype=torch.long
            )
            if j % 2:
                state[f"{block}.attn_mask"] = torch.zeros(4, window_area, window_area)
        if i < len(depths) - 1:
            merging = f"layers.{i}.downsample"
            state[f"{merging}.reduction.weight"] = (
                torch.randn(2 * channels, 4 * channels) * (4 * channels) ** -0.5
            )
            state[f"{merging}.norm.weight"] = torch.rand(4 * channels) + 0.5
            state[f"{merging}.norm.bias"] = torch.randn(4 * channels)
    state["norm.weight"], state["norm.bias"] = torch.ones(channels), torch.zeros(channels)
    state["head.weight"], state["head.bias"] = torch.randn(10, channels), torch.randn(10)
    return state
