"""Pages to look at: the report of a run, and two runs beside each other."""

from voxclick.evaluation.report.comparison import compare_runs, write_comparison
from voxclick.evaluation.report.report import write_report
from voxclick.evaluation.report.run_folder import EvaluatedRun, read_run

__all__ = ["EvaluatedRun", "compare_runs", "read_run", "write_comparison", "write_report"]
