"""What strangers write, as neutral text: nothing in it is unseen, and names stay as their owners write them."""

import pytest

from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.wording.jobs import job_details
from subscribers.wording.text import one_line, without_addresses
from tests.support.hostile_texts import TEXTS, events_with, unseen
from tests.support.slack_check import check_message


def test_neutral_text_has_one_line_and_nothing_unseen() -> None:
    for text in TEXTS:
        for limit in (7, 60, 500):
            for said in (one_line(text, limit), without_addresses(text[:limit])):
                assert unseen(said) == (), text
                assert len(said) <= limit
                assert said == said.strip()
                assert not {"\n", "\r", "\u2028"} & set(said)


@pytest.mark.parametrize(
    "name",
    [
        "👩‍💻 Ada",  # joined emoji
        "❤️ Kim",
        "❤️‍🔥 Kim",
        "می‌خواهم",  # Persian, with a non-joiner
        "क्‍ष",
        "ไทย",
        "日本語の名前",
        "O’Brien & Söhne",
        "e\u0301",
        "שלום",
        "R&D <Sales> *2*",
    ],
)
def test_a_name_stays_as_its_owner_writes_it(name: str) -> None:
    assert one_line(name) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay\u200bpal", "pay pal"),
        ("@\u200deveryone", "@ everyone"),
        ("a\u200d\u200cb", "a b"),
        ("é\u200d\u200b\u200dé", "é é"),
        ("x" + "\ufe0f" * 9, "x"),
        ("☀\ufe0f\ufe0f", "☀\ufe0f"),
        ("ok" + "".join(chr(0xE0000 + ord(one)) for one in "pay"), "ok"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\u3164b\u2800c\u034fd\u115fe", "a b c d e"),
        ("Z" + "\u0301\u0316" * 60, "Z" + "\u0301\u0316" * 2),
        (" \u2003\n\x07 ", ""),
        ("\ud83d x", "x"),
        ("\ufdd0\U0001fffe x", "x"),
    ],
)
def test_what_nobody_sees_becomes_a_space(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_selected_metadata_is_text_and_nothing_else() -> None:
    slack = registry.kind_named("slack")
    for turn, text in enumerate(TEXTS):
        subscription = Subscription(
            id="sub_1",
            sink="https://hooks.slack.com/services/T0/B0/one",
            kind="slack",
            options={"metadata_keys": [text, "deal", "url"]},
        )
        event = next(events_with(text, part=turn % 10, parts=10))
        for label, value in job_details(event, subscription.options["metadata_keys"]):
            assert not unseen(label + value)
        check_message(slack.render(event, subscription, RenderContext()).body)
