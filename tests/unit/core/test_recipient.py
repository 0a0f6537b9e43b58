"""What is kept of a create's recipient: a line of printable text, and never shown."""

import pytest

from relay.core.jobs.job import ANYBODY, MAX_CHARACTERS, PARTS, Recipient, part_of

KIM = Recipient(address="kim@example.com", phone="+1 415 555 0100")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("kim@example.com", "kim@example.com"),
        ("  kim@example.com\n", "kim@example.com"),
        ("Jürgen.李@exämple.de", "Jürgen.李@exämple.de"),
        ("https://www.linkedin.com/in/kim", "https://www.linkedin.com/in/kim"),
        ("+1 (415) 555-0100", "+1 (415) 555-0100"),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
        ("x" * (MAX_CHARACTERS + 1), None),
        (" " * MAX_CHARACTERS + "x", None),
        ("", None),
        (" \t ", None),
        ("kim\x00@example.com", None),
        ("kim@example.com\r\nBcc: all@example.com", None),
        ("kim\u202e@example.com", None),
        ("kim\u200b@example.com", None),
        (f"kim{chr(0xD800)}@example.com", None),
        ("kim\ufffd@example.com", None),
        ("{recipient.address}", None),
        (" {person}", None),
        (14155550100, None),
        (True, None),
        (None, None),
        (["kim@example.com"], None),
        ({"address": "kim@example.com"}, None),
    ],
)
def test_a_part_is_one_line_of_printable_text_as_it_was_written(value: object, kept: str | None) -> None:
    assert part_of(value) == kept


def test_a_recipient_has_the_parts_that_can_be_kept() -> None:
    given = {"address": "kim@example.com", "phone": "+1 415 555 0100", "profile_url": "\n", "name": "Kim"}
    assert Recipient.of(given) == KIM
    assert Recipient.of({"profile_url": 1, "name": "Kim"}) is None
    assert Recipient.of({}) is None


def test_what_people_see_names_the_parts_and_not_the_person() -> None:
    assert KIM.shown().document() == {"address": "{recipient.address}", "phone": "{recipient.phone}"}
    assert list(ANYBODY.document()) == list(PARTS)
    assert ANYBODY.shown() == ANYBODY
    assert "kim" not in repr(KIM)
    assert "415" not in f"{KIM} {KIM!r}"
