"""The affine part of frozen norms folded into the convolutions of Detectron2's ResNet, on CPUs.

A norm that does not follow the statistics of the batch multiplies each channel by a constant and
adds another: with a multiplied weight and a bias, the convolution does the same, and the norm's
pass over the map is saved. The products are made in each forward from the parameters of the time,
with gradients to them, so that nothing has to be kept up to date. Parameters, their names and
checkpoints stay as they are.

While no gradients are recorded, the sum of a block is written over its shortcut, unless somebody
else may need that.
"""

from __future__ import annotations

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, jit, nn
from torch.compiler import is_compiling
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from ..fused import convolution


def fold_norms(backbone: nn.Module) -> None:
    """Let the blocks of Detectron2's ResNet within `backbone` fold their norms on CPUs.

    Other blocks, norms that follow the statistics of a batch, and other devices are not concerned.
    """
    for module in backbone.modules():
        folding = _FOLDING.get(type(module))
        if folding is not None:
            module.__class__ = folding
    for module in backbone.modules():
        blocks = list(module.children())
        are_ours = blocks and all(isinstance(block, _FoldingBlock) for block in blocks)
        if are_ours and type(module) is nn.Sequential:
            module.__class__ = FoldingStage


class FoldingStem(BasicStem):
    """The stem with folded norms."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to a quarter of their size."""
        if not _can_fold(self, x):
            return super().forward(x)
        x = _folded(self.conv1, x, relu=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class _FoldingBlock(nn.Module):
    """A residual block with folded norms.

    Attributes:
        shortcut: the layer of the shortcut, or None.
    """

    shortcut: Conv2d | None

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Map (B, C, H, W) as the plain block does.

        Args:
            x: the map.
            overwrite: whether the result may be written over it.
        """
        if not _can_fold(self, x):
            return super().forward(x)
        *convolutions, last = self._branch()
        shortcut = x if self.shortcut is None else _folded(self.shortcut, x)
        y = x
        for layer in convolutions:
            y = _folded(layer, y, relu=True)
        overwrite = overwrite or shortcut is not x
        return _folded(last, y, added=shortcut, overwrite=overwrite, relu=True)

    def _branch(self) -> tuple[Conv2d, ...]:
        """Return the convolutions of the branch."""
        raise NotImplementedError


class FoldingBasicBlock(_FoldingBlock, BasicBlock):
    """The block of ResNet-18 and 34 with folded norms."""

    def _branch(self) -> tuple[Conv2d, ...]:
        return self.conv1, self.conv2


class FoldingBottleneckBlock(_FoldingBlock, BottleneckBlock):
    """The block of ResNet-50 and more with folded norms."""

    def _branch(self) -> tuple[Conv2d, ...]:
        return self.conv1, self.conv2, self.conv3


class FoldingStage(nn.Sequential):
    """Blocks of which each but the first may write over the result of the one before."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the plain stage does."""
        free = False  # the input is not this stage's
        for block in self:
            ours = isinstance(block, _FoldingBlock) and "forward" not in vars(block)
            if ours and free and not block._forward_pre_hooks:
                x = block(x, overwrite=True)
            else:
                x = block(x)
            free = ours and not block._forward_hooks
        return x


_FOLDING: dict[type, type] = {
    BasicStem: FoldingStem,
    BasicBlock: FoldingBasicBlock,
    BottleneckBlock: FoldingBottleneckBlock,
}


def _can_fold(block: nn.Module, x: Tensor) -> bool:
    """Tell whether every norm of a block is constant, and nobody watches what lies between."""
    if x.device.type != "cpu" or is_compiling() or jit.is_tracing() or _has_any_global_hook():
        return False
    convolutions = [child for child in block.children() if child is not None]
    return all(
        type(conv) is Conv2d
        and conv.activation is None
        and _is_constant(conv.norm)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (conv, conv.norm))
        for conv in convolutions
    )


def _is_constant(norm: nn.Module | None) -> bool:
    if type(norm) is FrozenBatchNorm2d:
        return True
    if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) or norm.training:
        return False
    return norm.affine and norm.running_var is not None


def _folded(
    conv: Conv2d,
    x: Tensor,
    *,
    added: Tensor | None = None,
    overwrite: bool = False,
    relu: bool = False,
) -> Tensor:
    """Apply a convolution and its norm, add a map, which may be overwritten, and apply a ReLU."""
    norm = conv.norm
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return convolution(conv, x, weight, bias, added=added, overwrite=overwrite, relu=relu)
