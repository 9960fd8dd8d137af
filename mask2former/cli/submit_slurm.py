"""Train on a SLURM cluster: ``python -m mask2former.cli.submit_slurm --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .train import main as train

EPILOG = """
example: two nodes with eight GPUs each, for two days; what follows -- goes to train_net.py
  python tools/submit_slurm.py --nodes 2 --gpus-per-node 8 --hours 48 --partition gpu -- \\
    --config-file configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml \\
    OUTPUT_DIR output/r50
"""


class Training:
    """A training in one of the processes that submitit starts.

    Args:
        arguments: of ``train_net.py``. The run resumes, so that it can be queued again.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = ["--resume", *arguments]

    def __call__(self) -> None:
        """Join the other processes and train."""
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        train(self.arguments)

    def checkpoint(self) -> Any:
        """Return what submitit queues when the job is preempted or its time is over."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit a job and print its number and where its output goes."""
    parser = argparse.ArgumentParser(
        description="Submit a training to SLURM; a job that is preempted is queued again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: 1)")
    parser.add_argument(
        "--gpus-per-node", type=int, default=8, help="processes on each (default: 8)"
    )
    parser.add_argument("--cpus-per-gpu", type=int, default=8, help="for data (default: 8)")
    parser.add_argument("--hours", type=float, default=24, help="time limit (default: 24)")
    parser.add_argument("--partition", help="of the cluster")
    parser.add_argument("--logs", default="output/slurm", help="folder of the processes' output")
    parser.add_argument(
        "--local", action="store_true", help="start the processes here, to try the command"
    )
    parser.add_argument("training", nargs="+", help="arguments of train_net.py, after --")
    args = parser.parse_args(arguments)
    try:
        import submitit
    except ImportError:
        sys.exit("error: submitting to SLURM needs submitit: pip install submitit")
    executor = submitit.AutoExecutor(args.logs, cluster="local" if args.local else "slurm")
    executor.update_parameters(
        name="mask2former",
        nodes=args.nodes,
        tasks_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_gpu,
        timeout_min=round(args.hours * 60),
    )
    if not args.local:
        executor.update_parameters(
            slurm_gpus_per_node=args.gpus_per_node, slurm_partition=args.partition
        )
    job = executor.submit(Training(args.training))
    print(f"Submitted job {job.job_id}; its output: {args.logs}/{job.job_id}_*_log.out")
    if args.local:
        job.results()
    return 0


if __name__ == "__main__":
    sys.exit(main())
