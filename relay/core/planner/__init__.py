"""Decides which job to poll next, and when. One `Planner` spends the request budget of one upstream account.

Pure code: times are passed in, nothing is read or sent. Start at `planner.py`; see docs/design/polling.md.
"""

from relay.core.planner.config import PlannerConfig
from relay.core.planner.planner import Planner
from relay.core.planner.statistics import PlannerStatistics

__all__ = ["Planner", "PlannerConfig", "PlannerStatistics"]
