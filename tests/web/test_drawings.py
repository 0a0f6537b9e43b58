"""Requests drawn as their receivers show them: the right marks, and no text of a stranger that is more than text."""

import re
import time
from collections.abc import Callable

import lxml.html
import pytest
from markupsafe import Markup

from relay.core.jsontext import dumps
from relay.web.drawings import drawing, html_text, markdown_text, slack_text
from relay.web.rendering import Pages
from subscribers.base import RenderContext
from subscribers.common.markdown import escape as markdown_escape
from subscribers.registry import kinds
from subscribers.slack.render import escape as slack_escape
from tests.support.html_probes import PROBES
from tests.support.job_events import job_event
from tests.support.store_kit import subscription
from tests.web.test_probes import FOREIGN

SINKS = {
    "slack": "https://hooks.slack.com/services/T/B/x",
    "teams": "https://prod-00.westeurope.logic.azure.com/workflows/a/triggers/manual/paths/invoke?sig=x",
    "discord": "https://discord.com/api/webhooks/1/x",
    "slack_workflow": "https://hooks.slack.com/triggers/T/1/x",
    "flat": "https://hooks.zapier.com/hooks/catch/1/x",
    "webhook": "https://receiver.example/hooks",
}
PAGES = Pages()


def drawn(look, body):
    """The HTML of a drawing."""
    found = drawing(look, body)
    assert found is not None
    html = PAGES.environment.get_template("drawing.html").module.drawn(found)
    return lxml.html.fromstring(f"<main>{html}</main>")


def drawn_event(kind, event):
    """An event as a kind renders it, drawn."""
    one = kinds()[kind]
    request = one.render(event, subscription("sub_1", sink=SINKS[kind], kind=kind), RenderContext())
    return drawn(one.offer.look, request.body.decode())


SLACK_TEXTS = (
    ("plain &lt;b&gt; &amp; more", "plain &lt;b&gt; &amp; more"),
    ("*bold* and _slanted_ and ~gone~", "<b>bold</b> and <i>slanted</i> and <s>gone</s>"),
    ("a\nb", "a<br>b"),
    ("<https://x.example/?a=1&amp;b=2|Open &lt;it&gt;>", "<a>Open &lt;it&gt;</a>"),
    ("*<https://x.example|Open>*", "<b><a>Open</a></b>"),
    ("<javascript:alert(1)|Open>", "&lt;javascript:alert(1)|Open&gt;"),
    ("two * three * four", "two * three * four"),
    ("in_the_word", "in_the_word"),
    ("`*code*`", "<code>*code*</code>"),
)
MARKDOWN_TEXTS = (
    ("**bold** and *slanted*", "<b>bold</b> and <i>slanted</i>"),
    (r"\*\*not bold\*\* \<b\>", "**not bold** &lt;b&gt;"),
    ("[Open](https://x.example/a)", "<a>Open</a>"),
    (r"[a \] b](https://x.example)", "<a>a ] b</a>"),
    ("[Open](javascript:alert)", "[Open](javascript:alert)"),
    (r"**a \* b**", "<b>a * b</b>"),
)
HTML_TEXTS = (
    ("<b>Failed</b><br>Deal: 7 &lt;x&gt;", "<b>Failed</b><br>Deal: 7 &lt;x&gt;"),
    ('<a href="https://x.example">x</a>', "<a>x</a>"),
    ('<a href="javascript:x">x</a><b onclick=x>y', "x<b>y</b>"),
    ("<script>x</script><img src=/probed onerror=x><style>y</style>", "xy"),
    ("<b><i>x</b>y</i>", "<b><i>x</i></b>y"),
)


@pytest.mark.parametrize(
    ("shown", "text", "html"),
    [
        *((slack_text, *case) for case in SLACK_TEXTS),
        *((markdown_text, *case) for case in MARKDOWN_TEXTS),
        *((html_text, *case) for case in HTML_TEXTS),
    ],
)
def test_marks_of_each_service(shown, text, html):
    assert re.sub(r'<a href="https://x\.example[^"]*" rel="noreferrer nofollow">', "<a>", shown(text)) == html


@pytest.mark.parametrize(("shown", "escape"), [(slack_text, slack_escape), (markdown_text, markdown_escape)])
def test_an_escaped_text_is_drawn_as_it_is(shown, escape):
    for probe in PROBES:
        text = " ".join(probe.split())
        page = lxml.html.fromstring(f"<main>{shown(escape(text))}</main>")
        assert page.text_content().replace("\u2060", "") == text
        assert page.xpath("//*[self::a or self::b or self::i or self::s or self::code]") == []


@pytest.mark.parametrize("kind", SINKS)
def test_strangers_texts_stay_texts_in_every_drawing(kind):
    for probe in PROBES:
        text = " ".join(probe.split())
        page = drawn_event(kind, job_event(metadata={"deal": text}, group=text))
        for what in FOREIGN:
            assert page.xpath(what) == [], (kind, what, probe)
        assert "fail" in page.text_content().lower()


CHATS = (("slack", "columns"), ("teams", "facts"), ("discord", "columns"))


@pytest.mark.parametrize(("kind", "place"), CHATS)
def test_chat_shows_the_sentence_and_the_metadata(kind, place):
    page = drawn_event(kind, job_event(metadata={"deal": "D-42", "owner": "Ada"}))
    assert page.xpath(f"//div[contains(@class, 'drawn {kind}')]")
    assert "failed" in page.text_content()
    assert "D-42" in page.xpath(f"string(//*[@class='{place}'])")


def test_bar_has_the_colour_of_the_message_and_no_other_value():
    for body, colour in (
        ({"embeds": [{"title": "x", "color": 0xD83C3E}]}, ["#d83c3e"]),
        ({"embeds": [{"title": "x", "color": "red"}]}, []),
        ({"embeds": [{"title": "x", "color": 2**40}]}, []),
    ):
        assert drawn("discord", dumps(body).decode()).xpath("//rect[@fill]/@fill") == colour
    for given, colour in (("danger", ["#a30200"]), ("#2EB886", ["#2eb886"]), ('"/><script>', [])):
        body = {"attachments": [{"color": given, "blocks": [{"type": "divider"}]}]}
        assert drawn("slack", dumps(body).decode()).xpath("//rect[@fill]/@fill") == colour


def test_buttons_lead_to_pages_only():
    card = {
        "body": [],
        "actions": [{"title": "Open", "url": "https://x.example"}, {"title": "No", "url": "javascript:x"}],
    }
    page = drawn("teams", dumps({"attachments": [{"content": card}]}).decode())
    assert page.xpath("//p[@class='drawn-buttons']/a/@href") == ["https://x.example"]
    assert page.xpath("string(//p[@class='drawn-buttons']/span)") == "No"


def test_record_shows_its_note_and_its_fields():
    note = {
        "properties": {"hs_note_body": "<b>Failed</b><br>&lt;x&gt;", "hs_timestamp": "1"},
        "associations": [{"to": 1}],
    }
    page = drawn("", dumps(note).decode())
    assert page.xpath("string(//div[@class='said']/b)") == "Failed"
    assert page.xpath("//dt/text()") == ["hs_timestamp"]


@pytest.mark.parametrize(
    "body", [None, "", "no json", "[]", "7", '"x"', "[7]", "{}", '{"blocks": 7}', '{"blocks": [7, {}]}']
)
def test_what_cannot_be_drawn_has_no_drawing(body):
    for look in ("slack", "teams", "discord"):
        assert drawing(look, body) is None


@pytest.mark.parametrize("look", ["slack", "teams", "discord"])
def test_bodies_of_wrong_shapes_are_no_failure(look):
    deep = {"type": "Container"}
    for _ in range(50):
        deep = {"type": "Container", "items": [deep]}
    for value in (None, 7, "x", [], [None], {}, [{"type": "section", "text": 7, "fields": "x"}], [deep]):
        names = ("blocks", "attachments", "embeds", "content", "components", "text", "body", "actions")
        drawing(look, dumps(dict.fromkeys(names, value)).decode())
        drawing(look, dumps({"attachments": [{"content": dict.fromkeys(names, value)}]}).decode())
        drawing(look, dumps({"embeds": [dict.fromkeys(("title", "fields", "footer", "url", "color"), value)]}).decode())


@pytest.mark.parametrize(
    "text", ["[", "[a", "[a](http://", "[\\]", "\\[", "<http://a|", "<http://a", "<a href=", "**a", "<![", "`"]
)
@pytest.mark.parametrize("drawn", [slack_text, markdown_text, html_text])
def test_no_text_holds_the_page_up(drawn: Callable[[str], Markup], text: str) -> None:
    """Texts of templates are those of users. Each took a minute, or raised."""
    began = time.process_time()
    assert drawn(text * (10_000 // len(text)))
    assert time.process_time() - began < 5
