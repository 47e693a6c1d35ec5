"""Self-contained HTML pages: of a comparison, an experiment, a backfill. No network, no script."""

from onward.report.grid import RetrievalGrid, make_grid
from onward.report.pages import (
    ExperimentRow,
    ExperimentTable,
    write_backfill_report,
    write_experiment_report,
    write_report,
)

__all__ = [
    "ExperimentRow",
    "ExperimentTable",
    "RetrievalGrid",
    "make_grid",
    "write_backfill_report",
    "write_experiment_report",
    "write_report",
]
