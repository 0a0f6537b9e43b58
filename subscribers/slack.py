"""Slack's incoming webhooks: a sentence with a link, how to fix the problem, the job's metadata, and the ids.

Sources: Slack's documentation of incoming webhooks, of message formatting (escaping) and of Block Kit (limits).
"""

import re
from collections.abc import Sequence
from typing import Any

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.jsontext import dumps
from relay.core.retry import http_outcome
from relay.core.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url, url_without_path
from subscribers import base, chat
from subscribers.chat import METADATA_KEYS
from subscribers.summary_wording import incident_link
from subscribers.wording import advice, facts, ids, job_details, link, sentence

SECTION_CHARACTERS = 3000
FIELD_CHARACTERS = 2000
MAX_FIELDS = 10
_JOINER = "\u2060"
"""WORD JOINER has no width. Next to a formatting mark it makes Slack read the mark as plain text."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Slack reads `_` within a word as text. It stays, so that ids can be copied. `>` quotes at the beginning of a line.
_MARKS = re.compile(r"[*~`]|\A>|(?<![^\W_])_|_(?![^\W_])|[@#](?=\w)|:(?!\d\d:)(?=[\w+'-]+:)")
_ANSWER_CODE = re.compile(rb"[a-z_]{1,60}")


class Slack(base.Single):
    """One message for people per event. Not signed: Slack reads no signature."""

    name = "slack"
    signed = False
    rate_per_second: float | None = 1.0
    default_incidents: Incidents = "collapse"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """What people act on or wait for."""
        return chat.default_types(type_prefixes)

    def check(self, subscription: Subscription) -> None:
        """Refuses headers, methods except POST, unknown options, credentials and the URLs of workflow triggers."""
        errors = base.option_errors(subscription, (METADATA_KEYS,))
        errors += base.chat_errors(subscription, "Slack")
        parts = split_url(subscription.sink)
        if parts is not None and parts.path.startswith(("/triggers/", "/workflows/")):
            detail = "this is a workflow trigger, which accepts no messages: use the kind slack_workflow"
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """Text: the sentence. Blocks: a section with the sentence, link and fields (advice, metadata), then one context
        line with place and time and one with ids."""
        text = escape(sentence(event, context))
        linked = _link(link(event) or incident_link(event, context))
        body = _clip(text, SECTION_CHARACTERS - len(linked)) + linked
        section: dict[str, Any] = {"type": "section", "text": _mrkdwn(body)}
        pairs = (*advice(event), *job_details(event, subscription.options.get(METADATA_KEYS)))[:MAX_FIELDS]
        if pairs:
            section["fields"] = [
                _mrkdwn(_clip(f"*{escape(label)}*\n{escape(value)}", FIELD_CHARACTERS)) for label, value in pairs
            ]
        blocks = [section, *(_context(found) for found in (facts(event, context), ids(event)) if found)]
        payload = {
            "text": _clip(text, SECTION_CHARACTERS),
            "blocks": blocks,
            "unfurl_links": False,
            "unfurl_media": False,
        }
        return OutboundRequest(
            url=subscription.sink,
            headers=(("Content-Type", "application/json; charset=utf-8"),),
            body=dumps(payload),
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """Slack's own rules, then those of HTTP.

        A 2xx without the body `ok` came from something else (a proxy, a login page) and is retried: a duplicate message
        is better than a lost one. 400: this message will never be accepted. 403, 404, 410: the webhook is gone.
        """
        status = response.status_code
        if response.error is not None or status is None:
            return http_outcome(response, now)
        answer = response.excerpt.strip()
        if 200 <= status < 300:
            if answer == b"ok":
                return Outcome(verdict="delivered", reason="ok")
            return Outcome(verdict="retry", reason=f"http_{status}, but the body is not Slack's “ok”")
        said = f": {answer.decode()}" if _ANSWER_CODE.fullmatch(answer) else ""
        if status == 400:
            return Outcome(verdict="dead", reason=f"http_400{said}")
        if status in (403, 404, 410):
            return Outcome(verdict="disable", reason=f"http_{status}{said}")
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without the path, which is the credential."""
        return url_without_path(url)


def escape(text: str) -> str:
    """Text that Slack shows literally: no mention, formatting, emoji name or entity."""
    return re.sub("[&<>]", lambda character: _ENTITIES[character[0]], without_marks(text))


def without_marks(text: str) -> str:
    """Text in which Slack finds no formatting, emoji name or name to mention. It looks the same."""
    return _MARKS.sub(lambda mark: f"{mark[0]}{_JOINER}" if mark[0] in "@#:" else f"{_JOINER}{mark[0]}{_JOINER}", text)


def _clip(escaped: str, limit_characters: int) -> str:
    """Escaped text truncated to `limit_characters`, never inside an entity."""
    if len(escaped) <= limit_characters:
        return escaped
    kept = escaped[: limit_characters - 1]
    ampersand = kept.rfind("&")
    return (kept if kept.rfind(";") > ampersand or ampersand < 0 else kept[:ampersand]) + "…"


def _link(url: str | None) -> str:
    """A line with the URL, titled with its host; empty without a URL."""
    if url is None:
        return ""
    return f"\n<{url.replace('&', '&amp;')}|Open in {escape(host_of(url))}>"


def _context(found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    elements = [_mrkdwn(_clip(f"{label} {escape(value)}", FIELD_CHARACTERS)) for label, value in found]
    return {"type": "context", "elements": elements}


def _mrkdwn(text: str) -> dict[str, Any]:
    # verbatim: Slack does not turn URLs, channels and names into links.
    return {"type": "mrkdwn", "text": text, "verbatim": True}
