"""Whether another request budget would change how soon the end of a job is known. Pure."""

from typing import Literal

MIN_CHANGE = 0.1
"""A change of the delay below this share of it, or below this many seconds, is not worth another budget."""

Effect = Literal["larger", "smaller", "neither"]
"""larger: twice the budget would shorten the delay; smaller: only half of it would change the delay; neither."""


def budget_effect(delay: float, at_half: float, at_double: float) -> Effect:
    """The effect of another budget, by the expected delays in seconds with today's budget, half and twice of it."""
    enough = max(MIN_CHANGE, MIN_CHANGE * delay)
    if delay - at_double >= enough:
        return "larger"
    return "smaller" if at_half - delay >= enough else "neither"
