"""Which job to look at next, and when: one `Planner` spends the request budget of one upstream account."""

from relay.core.planner.classes import Book
from relay.core.planner.config import PlannerConfig
from relay.core.planner.pacing import book_for
from relay.core.planner.planner import Planner

__all__ = ["Book", "Planner", "PlannerConfig", "book_for"]
