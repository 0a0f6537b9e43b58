"""Texts in Markdown fields are shown literally, by an independent parser and by Discord's documented rules."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from subscribers.common.markdown import disarmed, escape
from subscribers.wording.text import one_line
from tests.support.chat_texts import JOINER, shown_by_discord, shown_by_markdown

MARKS = (
    *("*b*", "**b**", "_i_", "a_b_ c", "__u__", "~~s~~", "`c`", "```", "||s||", "[bank](https://evil.example)"),
    "![x](y)",
    *("<https://evil.example>", "https://evil.example/x", "<at>Ada</at>", "<@1>", "<@&1>", "<#1>", "<t:1:R>", "<:a:1>"),
    *("</ban:1>", "<id:home>", "@everyone", "@here", "#general", ":tada:", "discord.gg/abc", "&amp;", "&#42;"),
    "&lt;at&gt;",
    *("# h", "#", "-# small", "- item", "-", "---", "===", "+ item", "1. item", "1) item", "> quote", ">>> all"),
    *("\\", "\\*"),
    *("{{DATE(2026-05-20T10:00:08Z,SHORT)}}", "${data}", "@{triggerBody()}", "| a | b |", "a\\", "<b>x</b>"),
    *("[x]: /y", "=", "10:00:08"),
)
pieces = st.lists(st.sampled_from(MARKS) | st.text(max_size=8), min_size=1, max_size=6).map("".join)


def check(text: str) -> None:
    text = one_line(text.replace(JOINER, ""))
    if text:
        assert shown_by_markdown(escape(text)) == text
        assert shown_by_discord(escape(text)) == text
        assert disarmed(text).replace(JOINER, "") == text


@pytest.mark.parametrize("mark", MARKS)
def test_each_mark_is_plain_text(mark: str) -> None:
    for text in (mark, f"{mark} x", f"x {mark}", f"x{mark}x", mark * 2, f"{mark} {mark}"):
        check(text)


@given(pieces)
@example("- ")
@example("1.")
def test_any_text_is_plain_text(text: str) -> None:
    check(text)
