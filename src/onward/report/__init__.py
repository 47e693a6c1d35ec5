"""Self-contained HTML pages: of a comparison, an experiment, a backfill. No network, no script."""

from onward.report.backfill_page import write_backfill_report
from onward.report.experiment import ExperimentRow, ExperimentTable, write_experiment_report
from onward.report.grid import GridQuery, GridResult, RetrievalGrid, make_grid
from onward.report.page import write_report

__all__ = [
    "ExperimentRow",
    "ExperimentTable",
    "GridQuery",
    "GridResult",
    "RetrievalGrid",
    "make_grid",
    "write_backfill_report",
    "write_experiment_report",
    "write_report",
]
