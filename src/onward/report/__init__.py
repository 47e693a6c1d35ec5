"""One self-contained HTML page from a comparison: no network, no script, no external file."""

from onward.report.grid import GridQuery, GridResult, RetrievalGrid, make_grid
from onward.report.page import write_report

__all__ = ["GridQuery", "GridResult", "RetrievalGrid", "make_grid", "write_report"]
