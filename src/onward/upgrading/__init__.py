"""Carry a gallery into a new space by a transformation: plan, run, verify, cut over, complete.

No image can be read here: nothing that could is imported.
"""

from onward.upgrading.asked import RealQueries
from onward.upgrading.backfill import Embedded, backfill, embeddings_given
from onward.upgrading.backfill_plan import BackfillPlan, plan_backfill
from onward.upgrading.backfill_result import BackfillResult
from onward.upgrading.budget import Budget
from onward.upgrading.canaries import Canaries, CanaryResult
from onward.upgrading.complete import Completion, plan_completion
from onward.upgrading.gate import Decision, Requirement, Verdict, decide
from onward.upgrading.plan import Plan, plan_upgrade
from onward.upgrading.prediction import Cell, Judgement, Prediction, predict
from onward.upgrading.routes import Routes
from onward.upgrading.run import UpgradeResult
from onward.upgrading.status import UpgradeStatus
from onward.upgrading.upgrade import Upgrade
from onward.upgrading.verify import Verification
from onward.upgrading.whole import verify_and_cut_over
from onward.upgrading.work import Blocked, Work

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
    "Embedded",
    "Judgement",
    "Plan",
    "Prediction",
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
    "plan_backfill",
    "plan_completion",
    "plan_upgrade",
    "predict",
    "verify_and_cut_over",
]
