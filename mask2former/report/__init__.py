"""Reports of evaluations and of training runs: one file of HTML each."""

from .report import REPORT_FILE, Report

__all__ = ["REPORT_FILE", "Report"]
