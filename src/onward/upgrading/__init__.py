"""Carry a gallery into a new space by a transformation: plan, run, verify, cut over, complete.

No image can be read here: nothing that could is imported.
"""

from onward.evaluation.relevance import RealQueries
from onward.upgrading.backfill import (
    BackfillResult,
    Budget,
    EmbeddedItems,
    backfill,
    embeddings_given,
)
from onward.upgrading.complete import Completion, plan_completion
from onward.upgrading.forecast import Cell, Forecast, Judgement, forecast
from onward.upgrading.gate import Decision, Requirement, Verdict, decide
from onward.upgrading.plan import BackfillPlan, Plan, plan_backfill, plan_upgrade
from onward.upgrading.routes import Blocked, Routes, Work
from onward.upgrading.run import UpgradeResult
from onward.upgrading.upgrade import Upgrade, UpgradeStatus, verify_and_cut_over
from onward.upgrading.verify import Canaries, CanaryResult, Verification

__all__ = [
    "BackfillPlan",
    "BackfillResult",
    "Blocked",
    "Budget",
    "Canaries",
    "CanaryResult",
    "Cell",
    "Completion",
    "Decision",
    "EmbeddedItems",
    "Forecast",
    "Judgement",
    "Plan",
    "RealQueries",
    "Requirement",
    "Routes",
    "Upgrade",
    "UpgradeResult",
    "UpgradeStatus",
    "Verdict",
    "Verification",
    "Work",
    "backfill",
    "decide",
    "embeddings_given",
    "forecast",
    "plan_backfill",
    "plan_completion",
    "plan_upgrade",
    "verify_and_cut_over",
]
