"""Whose turn a trouble is: always one of five."""

import pytest

from relay.core.turns import (
    ADMINISTRATOR,
    OWNER,
    RECEIVER,
    RELAY,
    turn_of,
    turn_of_failure,
    turn_of_incident,
    turn_of_sink,
)


def incident(kind: str, **more: object) -> dict[str, object]:
    return {"kind": kind, "who": "account owner", "code": None, **more}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (turn_of("account"), OWNER),
        (turn_of("creates"), ADMINISTRATOR),
        (turn_of("uncertain"), ADMINISTRATOR),
        (turn_of("given_up"), ADMINISTRATOR),
        (turn_of("key"), ADMINISTRATOR),
        (turn_of("credits"), ADMINISTRATOR),
        (turn_of("node"), ADMINISTRATOR),
        (turn_of("down", "Revor"), "Revor"),
        (turn_of("late"), RELAY),
        (turn_of_failure("account owner"), OWNER),
        (turn_of_failure("administrator"), ADMINISTRATOR),
        (turn_of_failure("developer"), ADMINISTRATOR),
        (turn_of_failure("Revor"), "Revor"),
        (turn_of_sink("http_503"), RECEIVER),
        (turn_of_sink("503"), RECEIVER),
        (turn_of_sink("410"), RECEIVER),
        (turn_of_sink("connect: refused"), RECEIVER),
        (turn_of_sink(None), RECEIVER),
        (turn_of_sink("http_401"), ADMINISTRATOR),
        (turn_of_sink("301"), ADMINISTRATOR),
        (turn_of_sink("credential"), ADMINISTRATOR),
        (turn_of_sink("extra_missing"), ADMINISTRATOR),
        (turn_of_sink("this version cannot read the template: /config/template: …"), ADMINISTRATOR),
        (turn_of_incident(incident("jobs")), OWNER),
        (turn_of_incident(incident("jobs", who="administrator")), ADMINISTRATOR),
        (turn_of_incident(incident("creates")), ADMINISTRATOR),
        (turn_of_incident(incident("sink", code="503")), RECEIVER),
    ],
)
def test_each_trouble_is_the_turn_of_one_of_five(turn: str, expected: str) -> None:
    assert turn == expected
