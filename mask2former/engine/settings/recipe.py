"""The settings of a run on a user's own data, chosen from the data and the machine.

`choose` is a function of facts alone. It reads no file and asks no device.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode

from mask2former_runtime.stored import STORED_TYPES
from mask2former_runtime.text import counted

from ...config.merge import get_value
from ...data.mapper.augmentations import has_fixed_crop, has_scale_jitter
from ...tasks import TASKS
from .choices import KEYS, Choice
from .facts import DataFacts, Machine

_GB = 2**30
# Sides of images are multiples of the coarsest stride. Smaller images are enlarged.
_STRIDE = 32
_SMALLEST = 128
# Largest side of a training crop: by processor cores without a GPU, or by the GPU's memory in GB.
_SIDE_OF_CORES = ((8, 512), (5, 384), (0, 320))
_SIDE_OF_GPU = ((11, 1024), (7, 768), (0, 512))
# Memory of training in bytes per pixel of the crop with a ResNet-50, in float32 and in 16 bits,
# from `docs/benchmarks.md`; and what a process takes besides.
_BYTES_PER_PIXEL = {False: 5000, True: 2600}
_PROCESS_BYTES = 1.5 * _GB
# Images seen in a run: this times the square root of their number, by device and whether weights
# are given. The hand-tuned run in `docs/benchmarks.md` saw 87 photographs 184 times each on a CPU,
# from scratch; from ImageNet weights, larger images and a fifth of that give a higher AP. COCO is
# seen 12 times, the shortest schedule in common use.
_LENGTH = {
    ("cpu", False): 1500, ("cpu", True): 300, ("cuda", False): 3000, ("cuda", True): 3000
}  # fmt: skip
_EPOCHS = (12, 300)
_ITERATIONS = {
    ("cpu", False): (1000, 30_000), ("cpu", True): (400, 30_000),
    ("cuda", False): (1500, 370_000), ("cuda", True): (1500, 370_000),
}  # fmt: skip
_BATCHES_PER_EPOCH = 16
_SMALLEST_BATCH = 4
_EVALUATIONS = 10
# Windows around objects are cut out where images are resized to less than this share of their size
# and half of the objects are then smaller than so many pixels.
FAR_LARGER = 1 / 3
_SMALL_OBJECT = 24
# Images of rare classes are repeated if classes differ by this factor in the share of the images
# that have them. Classes below this share, or below the median if that is less, are repeated, as
# LVIS's are (arXiv 1908.03195), if the rarest is repeated at least so often.
_UNEQUAL = 10
_REPEATED_BELOW = 0.2
_LEAST_REPEAT = 1.5
# Runs of fewer iterations end before an average has forgotten its beginning (see `WeightAverage`).
_LEAST_AVERAGED = 100
# An image costs about this many times as much in training as in evaluation, and evaluations get at
# most this share of the time.
_TRAINING_COST = 3
_EVALUATION_SHARE = 0.2
# Encoders of timm whose convolutions are depthwise
_DEPTHWISE = ("efficientnet", "mobilenet", "convnext")


def choose(
    cfg: CfgNode,
    data: DataFacts,
    machine: Machine,
    *,
    given: Set[str] = frozenset(),
    published: CfgNode | None = None,
    epochs: float | None = None,
    training_cost: float = _TRAINING_COST,
) -> list[Choice]:
    """Choose the settings of a run that the user has not given.

    Args:
        cfg: the config of the run, which is not modified.
        data: facts about the data.
        machine: facts about the machine.
        given: keys that the user has set. They stay, and what depends on them follows.
        published: the config that the recipe starts from, without the values of the user: its
            learning rate belongs to its batch, and its weight of "no object" to its number of
            queries. By default `cfg`.
        epochs: how often each image is seen, if the user says so.
        training_cost: how many times as long an image takes in training as in evaluation.

    Returns:
        The choices, of `KEYS`.
    """
    recipe = _Recipe(cfg, published or cfg, data, machine, given)
    recipe.channels()
    recipe.sizes()
    recipe.windows()
    recipe.queries()
    recipe.ignored_regions()
    recipe.rare_classes()
    recipe.machine_settings()
    recipe.batch()
    recipe.length(epochs)
    recipe.rates()
    recipe.periods(training_cost)
    return recipe.choices


@dataclass
class _Recipe:
    cfg: CfgNode
    published: CfgNode
    data: DataFacts
    machine: Machine
    given: Set[str]
    choices: list[Choice] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return the value of a key so far."""
        return self.chosen[key] if key in self.chosen else get_value(self.cfg, key)

    def choose(self, key: str, value: Any, why: str) -> Any:
        """Choose a value unless the user gave one; return the value that counts."""
        assert key in KEYS
        if key not in self.given:
            self.chosen[key] = value
            self.choices.append(Choice(key, value, why))
        return self.value(key)

    def channels(self) -> None:
        """Choose how images are read and normalised that are no pictures of 8 bits."""
        stored = self.data.stored
        if stored is None:
            return
        what = f"{counted(len(stored.mean), 'channel')} of {stored.type}"
        key = "INPUT.FORMAT"
        if self.choose(key, stored.type, f"the images have {what}") not in STORED_TYPES:
            return
        of = f"in {counted(stored.images, 'image')}, per channel"
        self.choose("MODEL.PIXEL_MEAN", [_short(x) for x in stored.mean], f"mean {of}")
        std = [_short(x) if x > 0 else 1.0 for x in stored.std]
        self.choose("MODEL.PIXEL_STD", std, f"standard deviation {of}")
        if self.value("INPUT.COLOR_AUG_SSD"):
            self.choose("INPUT.COLOR_AUG_SSD", False, "only pictures of 8 bits have colours")

    def sizes(self) -> None:
        data = self.data
        is_jitter = has_scale_jitter(self.cfg)
        wanted, what = (
            (data.long_side, "longer") if is_jitter else (data.short_side, "shorter")
        )  # fmt: skip
        most, limit = self._largest_side()
        side = min(max(_multiple(wanted), _SMALLEST), most)
        seen = f"median of the images' {what} sides: {wanted} pixels"
        if side == most < wanted:
            seen = f"{limit}; {seen}"
        if is_jitter:
            side = self.choose("INPUT.IMAGE_SIZE", side, seen)
            shortest, longest = side, side
            as_trained = "images fit into the square that is used in training"
        else:
            side = self._crop(side, seen)
            shortest, longest = side, _multiple(side * data.elongation)
            as_trained = "the shorter side of images, as in the training crop"
        shortest = self.choose("INPUT.MIN_SIZE_TEST", shortest, as_trained)
        if "INPUT.MIN_SIZE_TEST" in self.given:
            longest = max(longest, _multiple(shortest * data.elongation))
        self.choose(
            "INPUT.MAX_SIZE_TEST",
            longest,
            "the same as MIN_SIZE_TEST"
            if longest == shortest
            else f"at most {data.elongation:.2f} times the shorter side in 95 % of the images",
        )

    def _largest_side(self) -> tuple[int, str]:
        if self.machine.device == "cpu":
            cores = self.machine.cores * self.machine.processes
            return _look_up(_SIDE_OF_CORES, cores), f"the most for {counted(cores, 'core')}"
        memory = self.machine.memory / _GB
        return _look_up(_SIDE_OF_GPU, memory), f"the most for {memory:.0f} GB of GPU memory"

    def _crop(self, side: int, seen: str) -> int:
        """Choose the sizes of the mask_former_* mappers around a crop; return its shorter side."""
        before = self.published.INPUT
        if has_fixed_crop(self.cfg):
            side = min(self.choose("INPUT.CROP.SIZE", [side, side], seen))
            scale = side / min(before.CROP.SIZE)
        else:
            scale = side / float(_median(before.MIN_SIZE_TRAIN))
        sizes = tuple(max(1, round(size * scale)) for size in before.MIN_SIZE_TRAIN)
        self.choose("INPUT.MIN_SIZE_TRAIN", sizes, "as in the config, relative to the crop")
        longest = max(round(before.MAX_SIZE_TRAIN * scale), *sizes)
        self.choose("INPUT.MAX_SIZE_TRAIN", longest, "as in the config, relative to the crop")
        if self.value("INPUT.SIZE_DIVISIBILITY") > 0:
            self.choose(
                "INPUT.SIZE_DIVISIBILITY", _multiple(side), "pads images to the crop's size"
            )
        key = "MODEL.MASK_FORMER.SIZE_DIVISIBILITY"
        if side % max(1, self.value(key)):
            self.choose(key, _STRIDE, f"the crop is not a multiple of {self.value(key)}")
        return side

    def windows(self) -> None:
        """Choose windows around objects where whole images would hardly show them."""
        data = self.data
        seen = self.value("INPUT.MIN_SIZE_TEST") / data.short_side
        seen = min(seen, self.value("INPUT.MAX_SIZE_TEST") / data.long_side)
        if 0 < data.object_side * seen < _SMALL_OBJECT and seen < FAR_LARGER:
            why = f"half of the objects are smaller than {data.object_side * seen:.2g} pixels in "
            why += "resized images; predict with --tile"
            self.choose("INPUT.OBJECT_CROP", 0.5, why)

    def queries(self) -> None:
        data, head = self.data, "MODEL.MASK_FORMER."
        if self.cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
            return
        key, before = f"{head}NUM_OBJECT_QUERIES", self.published.MODEL.MASK_FORMER
        unit = TASKS[data.task].units
        held = f"99 % of the images have at most {data.objects} {unit}"
        needed = math.ceil(max(data.objects * 1.25, data.objects + 4) / 10) * 10
        if needed > before.NUM_OBJECT_QUERIES:
            self.choose(key, needed, held)
        number = self.value(key)
        balance = before.NO_OBJECT_WEIGHT * before.NUM_OBJECT_QUERIES
        lowest = min(0.1, before.NO_OBJECT_WEIGHT)
        weight = min(max(balance / number, lowest), before.NO_OBJECT_WEIGHT)
        if number > before.NUM_OBJECT_QUERIES and weight != before.NO_OBJECT_WEIGHT:
            why = "less than in the config, because more queries match no object"
            self.choose(f"{head}NO_OBJECT_WEIGHT", round(weight, 3), why)
        most = math.ceil(data.most_objects * 1.25 / 10) * 10
        key = "TEST.DETECTIONS_PER_IMAGE"
        if data.task != "semantic" and most > self.value(key):
            self.choose(key, most, f"one image has {data.most_objects} {unit}")

    def ignored_regions(self) -> None:
        data = self.data
        if self.cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
            return
        if data.void_is_background:
            what = "of no segment" if data.task == "panoptic" else "without the only class"
            why = f"pixels {what} are background"
        else:
            unlabelled = {
                "instance": "crowd regions are",
                "panoptic": "crowd regions and pixels of no segment are",
                "semantic": "pixels without a class are",
            }[data.task]
            why = f"{unlabelled} unknown, not background"
        self.choose("MODEL.MASK_FORMER.IGNORE_REGIONS", not data.void_is_background, why)

    def rare_classes(self) -> None:
        keys = ("DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD")
        shares = self.data.frequencies
        if not shares or not self.given.isdisjoint(keys):
            return
        threshold = float(f"{min(_REPEATED_BELOW, statistics.median(shares)):.3g}")
        most = math.sqrt(threshold / shares[0])
        if shares[-1] < _UNEQUAL * shares[0] or most < _LEAST_REPEAT:
            return
        why = f"classes are in {100 * shares[0]:.2g} % to {100 * shares[-1]:.2g} % of the images"
        self.choose(keys[0], "RepeatFactorTrainingSampler", why)
        self.choose(keys[1], threshold, f"the rarest class is seen {most:.2g} times as often")

    def machine_settings(self) -> None:
        machine = self.machine
        is_cpu = machine.device == "cpu"
        what = "bfloat16" if is_cpu else "float16"
        model = self.cfg.MODEL
        is_depthwise = model.BACKBONE.NAME == "TimmBackbone" and any(
            name in model.TIMM.NAME for name in _DEPTHWISE
        )
        if is_cpu and is_depthwise:
            self.choose("SOLVER.AMP.ENABLED", False, f"{what} is slower with this encoder on a CPU")
        else:
            why = f"{what} is {'' if machine.fast_16_bit else 'not '}faster on this machine"
            self.choose("SOLVER.AMP.ENABLED", machine.fast_16_bit, why)
        workers = 1 + machine.cores // 8 if is_cpu else min(8, max(1, machine.cores - 1))
        share = " per process" if machine.processes > 1 else ""
        why = f"for {counted(machine.cores, 'core')}{share}"
        self.choose("DATALOADER.NUM_WORKERS", workers, why)

    def batch(self) -> None:
        data, processes = self.data, self.machine.processes
        solver = self.published.SOLVER
        usual = solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS
        batch = min(usual, max(data.images // _BATCHES_PER_EPOCH, _SMALLEST_BATCH))
        each = math.ceil(batch / processes)
        fits = max(1, int((self.machine.memory - _PROCESS_BYTES) / self._bytes_per_image()))
        steps = math.ceil(each / fits)
        if "SOLVER.ACCUMULATE_STEPS" in self.given:
            steps = self.value("SOLVER.ACCUMULATE_STEPS")
        why = (
            "as in the config"
            if batch == usual
            else f"less than in the config, for {counted(data.images, 'image')}"
        )
        if steps > 1:
            why = f"what fits into {self.machine.memory / _GB:.1f} GB; the whole batch is {batch}"
        chosen = self.choose("SOLVER.IMS_PER_BATCH", math.ceil(each / steps) * processes, why)
        if "SOLVER.IMS_PER_BATCH" in self.given:
            steps = 1
        if steps != self.value("SOLVER.ACCUMULATE_STEPS"):
            why = f"batches per step, of {chosen * steps} images together"
            self.choose("SOLVER.ACCUMULATE_STEPS", steps, why)

    @property
    def _batch(self) -> int:
        return self.value("SOLVER.IMS_PER_BATCH") * self.value("SOLVER.ACCUMULATE_STEPS")

    @property
    def _is_evaluated(self) -> bool:
        """Whether evaluations in training compare weights."""
        period = self.value("TEST.EVAL_PERIOD")
        return self.data.val_images > 0 and ("TEST.EVAL_PERIOD" not in self.given or period > 0)

    def _bytes_per_image(self) -> float:
        if has_scale_jitter(self.cfg):
            pixels = self.value("INPUT.IMAGE_SIZE") ** 2
        elif has_fixed_crop(self.cfg):
            pixels = math.prod(self.value("INPUT.CROP.SIZE"))
        else:
            pixels = max(self.value("INPUT.MIN_SIZE_TRAIN")) ** 2 * self.data.elongation
        bytes_per_pixel = _BYTES_PER_PIXEL[self.value("SOLVER.AMP.ENABLED")]
        return pixels * bytes_per_pixel * _relative_memory(self.cfg)

    def length(self, epochs: float | None) -> None:
        images, batch, device = self.data.images, self._batch, self.machine.device
        if epochs is not None:
            iterations, why = math.ceil(epochs * images / batch), "as --epochs says"
        else:
            start = device, bool(self.cfg.MODEL.WEIGHTS)
            epochs = min(max(_LENGTH[start] / math.sqrt(images), _EPOCHS[0]), _EPOCHS[1])
            least, most = _ITERATIONS[start]
            wanted = math.ceil(epochs * images / batch)
            iterations = min(max(wanted, least), most)
            why = "shortest" if iterations > wanted else "longest" if iterations < wanted else ""
            kind = "GPU" if device == "cuda" else "CPU"
            why = f"the {why} run on a {kind}" if why else "the more images, the fewer epochs"
        key = "SOLVER.MAX_ITER"
        iterations = max(1, iterations)
        seen = iterations * batch / images
        self.choose(key, iterations, f"{seen:.3g} epochs of {counted(images, 'image')}; {why}")

    def rates(self) -> None:
        solver, batch = self.published.SOLVER, self._batch
        iterations = self.value("SOLVER.MAX_ITER")
        usual = solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS
        # Adaptive methods keep their dynamics when the rate grows as the square root of the batch:
        # Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022).
        rate = float(f"{solver.BASE_LR * math.sqrt(batch / usual):.3g}")
        why = f"as in the config, for a batch of {usual}"
        if batch != usual:
            why = f"{solver.BASE_LR:g} in the config, times the square root of {batch}/{usual}"
        self.choose("SOLVER.BASE_LR", rate, why)
        warm_up = min(500, math.ceil(iterations / 20))
        self.choose("SOLVER.WARMUP_ITERS", warm_up, "a twentieth of the run, at most 500")
        if self.value("SOLVER.WARMUP_ITERS") and self.value("SOLVER.WARMUP_FACTOR") == 1:
            self.choose("SOLVER.WARMUP_FACTOR", 0.01, "the warm-up starts at 1 % of the rate")
        if self.value("SOLVER.LR_SCHEDULER_NAME") == "WarmupMultiStepLR":
            steps = tuple(round(s * iterations / solver.MAX_ITER) for s in solver.STEPS)
            self.choose("SOLVER.STEPS", steps, "as in the config, relative to the length")
        if self._is_evaluated and iterations < _LEAST_AVERAGED:
            self.choose("SOLVER.EMA_DECAY", 0.0, "the run is too short for an average of weights")
        elif self._is_evaluated:
            window = max(10, iterations / 25)
            decay = float(f"{1 - 1 / window:.4g}")
            self.choose("SOLVER.EMA_DECAY", decay, f"averages about {window:.0f} iterations")

    def periods(self, training_cost: float) -> None:
        data, iterations = self.data, self.value("SOLVER.MAX_ITER")
        epoch = math.ceil(data.images / self._batch)
        count = _EVALUATIONS
        if self._is_evaluated:
            # The averaged weights are evaluated, too.
            models = 2 if self.value("SOLVER.EMA_DECAY") else 1
            affordable = iterations * self._batch * training_cost * _EVALUATION_SHARE
            count = max(1, min(count, int(affordable / (data.val_images * models))))
        period = min(iterations, max(epoch, math.ceil(iterations / count)))
        times = round(iterations / period)
        if self._is_evaluated:
            often = "one evaluation, at the end" if times == 1 else f"{times} evaluations"
            self.choose("TEST.EVAL_PERIOD", period, often)
            self.choose("SOLVER.BEST_METRIC", TASKS[data.task].metric, "decides on model_best.pth")
        often = "one checkpoint, at the end" if times == 1 else f"{times} checkpoints"
        self.choose("SOLVER.CHECKPOINT_PERIOD", period, often)
        self.choose("SOLVER.CHECKPOINTS_TO_KEEP", 2, "older ones are deleted")


def _short(value: float) -> float:
    """Round to what float32 holds."""
    return float(f"{value:.7g}")


def _multiple(length: float) -> int:
    """Round up to a multiple of the stride."""
    return math.ceil(length / _STRIDE) * _STRIDE


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _look_up(steps: Sequence[tuple[int, int]], value: float) -> int:
    return next(found for least, found in steps if value >= least)


def _relative_memory(cfg: CfgNode) -> float:
    """Return roughly how much memory a model takes in training, relative to a ResNet-50."""
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        swin: Mapping[str, Any] = cfg.MODEL.SWIN
        return 1.3 * swin["EMBED_DIM"] / 96 * sum(swin["DEPTHS"]) / 12
    if cfg.MODEL.BACKBONE.NAME == "TimmBackbone":
        return 1.0 if "lite" in cfg.MODEL.TIMM.NAME else 2.0
    return max(1.0, cfg.MODEL.RESNETS.DEPTH / 50)
