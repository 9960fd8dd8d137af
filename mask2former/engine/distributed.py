"""A model that several processes train as one process with all of their images would."""

from __future__ import annotations

import warnings

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn


def distributed_model(model: nn.Module) -> nn.Module:
    """Wrap a model in ``DistributedDataParallel`` if there are several processes.

    Batch normalisations then take their statistics from the images of all processes: the names of
    parameters and buffers stay.
    """
    if comm.get_world_size() == 1:
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d or type(child) is nn.SyncBatchNorm:
                setattr(module, name, _synchronised(child))  # a subclass may do more
    with warnings.catch_warnings():
        # PyTorch 2.14 gives `broadcast_buffers` another name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return create_ddp_model(model, broadcast_buffers=False, device_ids=None)


def _synchronised(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.Module:
    if norm.weight is not None and norm.weight.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    new = SyncBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    new.weight, new.bias = norm.weight, norm.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(norm, name))
    new.train(norm.training)
    return new


class SyncBatchNorm(nn.BatchNorm2d):
    """``torch.nn.SyncBatchNorm`` for any device; that of PyTorch is for CUDA only.

    The arguments are those of ``torch.nn.BatchNorm2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the statistics of the batches of all processes."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x.float()).to(x.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        sums = torch.cat((x.sum((0, 2, 3)), x.new_tensor([x.numel() / x.shape[1]])))
        sums = differentiable_all_reduce(sums)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        var = differentiable_all_reduce(centred.square().sum((0, 2, 3))) / count
        self._update(mean.detach(), var.detach() * count / (count - 1))
        scale = (var + self.eps).rsqrt()
        if self.weight is None:
            return centred * scale[:, None, None]
        return centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]

    def _update(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)
