"""Whether another request budget would change how soon ends are known."""

import pytest

from relay.core.polling.budget_effect import budget_effect


@pytest.mark.parametrize(
    ("delay", "at_half", "at_double", "effect"),
    [
        (10.0, 22.0, 5.0, "larger"),
        (10.0, 22.0, 9.5, "smaller"),
        (10.0, 10.5, 9.5, "neither"),
        (0.05, 0.2, 0.01, "smaller"),
        (0.02, 0.05, 0.01, "neither"),
    ],
)
def test_effect_of_another_budget(delay: float, at_half: float, at_double: float, effect: str) -> None:
    assert budget_effect(delay, at_half, at_double) == effect
