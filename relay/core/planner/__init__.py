"""Which job to look at next, and when: one `Planner` spends the request budget of one upstream account."""

from relay.core.planner.config import PlannerConfig
from relay.core.planner.pacing import statistics_for
from relay.core.planner.planner import Planner
from relay.core.planner.statistics import PlannerStatistics

__all__ = ["Planner", "PlannerConfig", "PlannerStatistics", "statistics_for"]
