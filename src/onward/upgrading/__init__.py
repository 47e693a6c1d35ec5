"""Carry a gallery into a new space by a transformation: plan, run, verify, cut over, roll back.

No image can be read here: nothing that could is imported.
"""

from onward.upgrading.gate import Requirement, Verdict
from onward.upgrading.plan import Plan, plan_upgrade
from onward.upgrading.prediction import Cell, Prediction, Unpredicted, predict
from onward.upgrading.routes import Routes
from onward.upgrading.run import UpgradeResult
from onward.upgrading.status import UpgradeStatus
from onward.upgrading.upgrade import Upgrade
from onward.upgrading.verify import Verification
from onward.upgrading.work import Blocked, Work

__all__ = [
    "Blocked",
    "Cell",
    "Plan",
    "Prediction",
    "Requirement",
    "Routes",
    "Unpredicted",
    "Upgrade",
    "UpgradeResult",
    "UpgradeStatus",
    "Verdict",
    "Verification",
    "Work",
    "plan_upgrade",
    "predict",
]
