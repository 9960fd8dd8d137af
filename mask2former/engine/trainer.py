"""The trainer that ``train_net.py`` runs."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.logger import setup_logger

from mask2former_runtime.text import counted

from ..checkpoint import Checkpointer
from ..data import ResumableSampler, build_test_loader, build_train_loader
from ..data.bad_images import TrainLoader
from ..data.errors import DatasetError
from ..evaluation import build_evaluator
from ..inference.test_time_augmentation import InferenceWithTTA
from ..report import Report
from ..utils.device import in_fast_layout
from ..utils.progress import on_terminal
from .averaging import WeightAverage
from .bad_step import keep_step
from .distributed import distributed_model
from .early_stopping import EarlyStopping
from .hooks import Evaluate, WriteMetrics, WriteReport
from .interruption import request, stopping_at_once
from .launch import is_lost_connection
from .loggers.console import short_evaluation
from .loggers.evaluation_summary import AVERAGE, summary
from .loggers.progress_bar import ProgressBar
from .loggers.trackers import check_loggers
from .loggers.writers import build_writers
from .optimizer import build_optimizer
from .precision import autocast
from .resumed_state import checked_run
from .run_folder import LostFolderError
from .saving import AverageWeights, BestCheckpoint, SaveCheckpoints
from .schedule import build_lr_scheduler
from .train_loop import TrainLoop
from .validation_loss import ValidationLoss

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` with this package's data, optimizer, loop and evaluators.

    The config and its seed determine a run: a resumed run continues exactly as it would have
    without the interruption, with any number of data loading workers. With ``SEED`` -1 the trainer
    draws a seed and logs it. Checkpoints contain the seed.

    Args:
        cfg: the config, which is not modified.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor is left out: with mixed precision it builds a loop for
        # CUDA only. The order of the steps is the same.
        super(DefaultTrainer, self).__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size()).clone()
        cfg.defrost()
        self._seed_given = cfg.SEED >= 0
        if cfg.SEED < 0:
            cfg.SEED = comm.shared_random_seed()
            logger.info("Seed of this run: %d", cfg.SEED)
        cfg.freeze()
        check_loggers(cfg.LOGGERS)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer: TrainLoop = TrainLoop.from_config(
            cfg,
            distributed_model(model),
            self.build_train_loader(cfg),
            optimizer,
            seed=cfg.SEED,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        decay = cfg.SOLVER.EMA_DECAY
        self._average = WeightAverage(model, decay) if decay else None
        self.checkpointer: Checkpointer = Checkpointer(
            self.model, cfg.OUTPUT_DIR, for_training=True, trainer=weakref.proxy(self)
        )
        if self._average is not None:
            self.checkpointer.add_checkpointable("ema", self._average)
        self._validation = ValidationLoss(cfg) if cfg.TEST.VALIDATION_LOSS else None
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Build Detectron2's hooks, with those of this package for checkpoints and endings."""
        solver = self.cfg.SOLVER
        model, folder = self.checkpointer.model, self.cfg.OUTPUT_DIR
        self._best = BestCheckpoint(model, folder, solver.BEST_METRIC)
        patience = solver.EARLY_STOPPING_PATIENCE
        self._stopping = EarlyStopping(solver.BEST_METRIC, patience) if patience else None
        hooks: list[HookBase | None] = []
        for hook in super().build_hooks():
            if isinstance(hook, EvalHook):
                if self._average is not None:
                    hooks.append(AverageWeights(self._average, model, folder))
                self._saves = SaveCheckpoints(
                    self.checkpointer,
                    period=solver.CHECKPOINT_PERIOD,
                    minutes=solver.CHECKPOINT_PERIOD_MINUTES,
                    keep=solver.CHECKPOINTS_TO_KEEP,
                    device=self.cfg.MODEL.DEVICE,
                    average=self._average,
                )
                evaluate = Evaluate(
                    self.cfg.TEST.EVAL_PERIOD,
                    self._evaluate,
                    saves=self._saves,
                    stopping=self._stopping,
                )
                hooks += [self._saves, evaluate]
            elif isinstance(hook, PeriodicWriter):
                hooks.append(WriteMetrics(hook._writers, hook._period))
            elif not isinstance(hook, PeriodicCheckpointer):
                hooks.append(hook)
        if self.cfg.TEST.REPORT:
            self._reporting = WriteReport(self._new_report(), folder)
            hooks.append(self._reporting)
        if on_terminal() and comm.is_main_process():
            hooks.append(ProgressBar())
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Build the writers of ``LOGGERS``: see `mask2former.engine.loggers.writers`."""
        return build_writers(self.cfg, self.max_iter)

    def _new_report(self) -> Report:
        return Report(self.cfg, f"Training of {Path(self.cfg.OUTPUT_DIR).name}")

    def _evaluate(self) -> dict:
        """Evaluate; test-time augmentation, which takes many times as long, comes at the end.

        The results of averaged weights come beside the others, below "ema".
        """
        cfg = self.cfg.clone()
        cfg.defrost()
        last = self.iter + 1 >= self.max_iter
        last |= self._stopping is not None and self._stopping.may_be_next
        cfg.TEST.AUG.ENABLED = last and cfg.TEST.AUG.ENABLED
        report = None
        if last and cfg.TEST.REPORT:
            report = self._reporting.report = self._new_report()
        log = os.path.join(cfg.OUTPUT_DIR, "log.txt")
        with short_evaluation():
            results, best = self._tested(cfg, report=report)
            if self._average is not None:
                logger.info("Evaluation of the averaged weights")
                cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "ema")
                with self._average.applied():  # a signal may not come between two weights
                    average, better = self._tested(cfg, averaged=True)
                results, best = {**results, AVERAGE: average}, best or better
        if text := summary(results):
            done = counted(min(self.iter + 1, self.max_iter), "iteration")
            notes = [f"the best {cfg.SOLVER.BEST_METRIC} so far is saved"] if best else []
            notes += [f"all tables are in {log}"] if last else []
            logger.info(
                "Evaluation after %s%s:%s%s",
                done, f" ({'; '.join(notes)})" if notes else "",
                "\n" if "\n" in text else " ", text,
            )  # fmt: skip
        if self._stopping is not None:
            self._stopping.update(results, self.iter)
        self._last_eval_results = results
        return results

    def _tested(
        self, cfg: CfgNode, *, report: Report | None = None, averaged: bool = False
    ) -> tuple[dict, bool]:
        """Return the results, and whether they are the best so far."""
        more = {} if report is None else {"report": report}
        with stopping_at_once():
            results = self.test(cfg, self.model, **more)
        if not averaged:  # whose weights are not those to save
            self._saves.check_folder()
        best = False
        if cfg.SOLVER.BEST_METRIC:
            best = self._best.update(results, self.iter, averaged=averaged)
        if self._validation is not None:
            with stopping_at_once(), autocast(cfg):
                losses = self._validation.compute(self.checkpointer.model)
            logger.info("Mean loss on the validation set: %.4g", losses["total_loss"])
            results = {**results, "validation": losses}
        return results, best

    def train(self) -> dict | None:
        """Train to `max_iter`; a run whose iterations are all done gets its final checkpoint.

        Returns:
            The results of the last evaluation if the config lists expected results.

        Raises:
            LostFolderError: the folder was deleted, moved or replaced; see
                `SaveCheckpoints.check_folder`.
        """
        if self.start_iter > self.max_iter:
            logger.warning(
                "%s is of iteration %d, after SOLVER.MAX_ITER %d: nothing is left to train",
                self.checkpointer.resumed_from, self.iter, self.max_iter,
            )  # fmt: skip
        if self.checkpointer.resumed_from and self.start_iter == self.max_iter:
            self._saves.complete_final(self.checkpointer.resumed_from)
        try:
            self._run()
        except LostFolderError:
            raise
        except OSError:
            self._saves.check_folder()  # which may be why
            raise
        else:
            self._saves.check_folder()
        finally:
            if isinstance(self.data_loader, TrainLoader):
                self.data_loader.log_total()
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def _run(self) -> None:
        """Run as Detectron2's ``TrainerBase.train`` does; a hook may lower `max_iter`."""
        logger.info("Starting training from iteration %d", self.start_iter)
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1  # after the last one, hooks tell by it that the run is done
            except Exception as error:
                if not _is_said_in_one_line(error):
                    logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def run_step(self) -> None:
        """Run one iteration; one whose numbers are not finite is kept, and can be replayed."""
        try:
            super().run_step()
        except FloatingPointError as error:
            keep_step(self._trainer, self.cfg, error)
            raise

    def resume_or_load(self, resume: bool = True) -> None:
        """Load weights as Detectron2 does; resuming also continues the data stream.

        Resuming finds the newest whole checkpoint: see `Checkpointer.resume_or_load`.
        """
        wanted = self._settings_of_checkpoints()
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if not self.checkpointer.resumed_from:
            return
        if self._average is None and "ema" in rest:
            logger.warning(
                "SOLVER.EMA_DECAY is 0: the averaged weights of %s are left out",
                self.checkpointer.resumed_from,
            )
        elif self._average is not None and not self._average.started:
            logger.warning(
                "%s does not have averaged weights: the average starts at its weights",
                self.checkpointer.resumed_from,
            )
        for name, value in self._settings_of_checkpoints().items():
            if value != wanted[name]:
                logger.warning(
                    "%s stays %s, the value of the resumed checkpoint, and not %s as the config "
                    "says. To change it, start a new run with MODEL.WEIGHTS %s",
                    name, value, wanted[name], self.checkpointer.resumed_from,
                )  # fmt: skip
        if self.cfg.SOLVER.BEST_METRIC:
            self._best.restore()
        self.start_iter = self.iter + 1  # a checkpoint holds the iteration that had just finished
        if self._stopping is not None and self._stopping.reached:
            logger.warning(
                "%s is of a run that ended early: %s. To train on, set a larger "
                "SOLVER.EARLY_STOPPING_PATIENCE, or 0",
                self.checkpointer.resumed_from, self._stopping.reason(),
            )  # fmt: skip
            self.max_iter = self.start_iter
        sampler = getattr(self.data_loader, "sampler", None)
        if isinstance(sampler, ResumableSampler):
            solver = self.cfg.SOLVER
            sampler.seed = self._trainer.seed
            sampler.start = self.start_iter * solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS
        else:  # a subclass has another loader
            logger.warning("The data loader cannot resume: it starts from its beginning")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``.

        Raises:
            ValueError: the state is not that of a training run.
        """
        own = super().state_dict().get("hooks", {})
        super().load_state_dict(checked_run(state_dict, own))

    def _settings_of_checkpoints(self) -> dict[str, Any]:
        """Return the settings that a resumed run takes from its checkpoint, not from the config."""
        groups = self._trainer.optimizer.param_groups
        return {
            "SEED": self._trainer.seed if self._seed_given else None,
            "SOLVER.BASE_LR": max(group.get("initial_lr", group["lr"]) for group in groups),
            "SOLVER.WEIGHT_DECAY": max(group["weight_decay"] for group in groups),
        }

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Build the model, on the CPU in the memory layout that suits its convolutions."""
        return in_fast_layout(super().build_model(cfg), cfg.MODEL.DEVICE)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer: see `mask2former.engine.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the schedule: see `mask2former.engine.schedule`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable:
        """Build the loader: see `mask2former.data.build_train_loader`. ``SEED`` -1 draws one."""
        return build_train_loader(
            cfg, seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Build the loader: see `mask2former.data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Build the evaluator: see `mask2former.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: torch.nn.Module,
        evaluators: Any = None,
        *,
        report: Report | None = None,
    ) -> dict:
        """Evaluate on ``DATASETS.TEST`` in the precision of training.

        With ``TEST.AUG.ENABLED``, evaluate again on augmented views of each image (see
        `InferenceWithTTA`). The names of these results are "<task>_TTA".

        Args:
            cfg: the config.
            model: the model with its weights.
            evaluators: one per data set, by default those of `build_evaluator`. These write the
                results of augmented views to ``OUTPUT_DIR/inference_TTA``.
            report: gets the results, and the details of those without augmentation, in the main
                process.

        Returns:
            Results per task, or per data set and task if there are several data sets.
        """
        augmented = InferenceWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else None
        with autocast(cfg):
            plain = evaluators
            if isinstance(plain, DatasetEvaluator):
                plain = [plain]
            if report is not None and plain is None:
                plain = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            results = super().test(cfg, model, plain)
            if augmented is not None:
                logger.info("Evaluation with test-time augmentation")
                renamed = cls._test_with_tta(cfg, augmented, evaluators)
                if len(cfg.DATASETS.TEST) == 1:
                    results = {**results, **renamed}
                else:
                    results = {
                        name: {**result, **renamed[name]} for name, result in results.items()
                    }
        if report is not None and comm.is_main_process():
            names = cfg.DATASETS.TEST
            by_name = {names[0]: results} if len(names) == 1 else results
            for name, evaluator in zip(names, plain, strict=True):
                report.add_evaluation(name, evaluator, by_name[name])
        return results

    @classmethod
    def _test_with_tta(cls, cfg: CfgNode, model: InferenceWithTTA, evaluators: Any) -> dict:
        """Evaluate on augmented views, and return the results with "_TTA" in their names."""
        names = cfg.DATASETS.TEST
        if evaluators is None:
            folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
            folders = [folder] if len(names) == 1 else [os.path.join(folder, n) for n in names]
            evaluators = [
                cls.build_evaluator(cfg, name, folder)
                for name, folder in zip(names, folders, strict=True)
            ]
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST = 0  # views are made from images of their original size
        results = super().test(cfg, model, evaluators)

        def named(result: dict) -> dict:
            return {f"{task}_TTA": value for task, value in result.items()}

        if len(names) == 1:
            return named(results)
        return {name: named(result) for name, result in results.items()}


def _is_said_in_one_line(error: Exception) -> bool:
    """Tell whether who started the run says what is wrong, so that a traceback adds nothing."""
    expected = isinstance(error, OSError | FloatingPointError | DatasetError)
    return expected or request.raised or is_lost_connection(error)
