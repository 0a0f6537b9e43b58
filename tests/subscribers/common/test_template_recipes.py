"""The files that docs/guides/more-chats.md names, rendered for every event that they get, and held to the
vendors' limits."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.api.subscriptions.checks import options_of
from relay.api.subscriptions.models import SubscriptionCreate
from relay.core.events.event import Event
from relay.core.subscriptions.filters import full_type, known_types
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.common import templates
from tests.support.job_events import OF_SAMPLES, sample
from tests.vendors import template_targets

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "guides" / "more-chats.md"
CONTEXT = RenderContext(account_names={"default": "Sales"}, public_url="https://relay.example")
TARGETS: dict[str, Callable[[str, dict[str, str], bytes], None]] = {
    "Google Chat": template_targets.google_chat,
    "Telegram": template_targets.telegram,
    "ntfy": template_targets.ntfy,
    "PagerDuty": template_targets.pagerduty,
    "Opsgenie": template_targets.opsgenie,
}
HOSTILE = (
    "<users/all> & <b>x</b></i>",
    "\N{GRINNING FACE}" * 3_000,
    "{{ data }}{% raw %}",
    "a\n\n\x00\u202eb\ud800",
    "<a href='https://evil.example'>here</a>",
    "*x* _y_ `z` [a](b)",
    '"\\u0000\\',
)


def recipes() -> dict[str, dict[str, Any]]:
    return {
        title: json.loads((DOCUMENT.parent / file).read_text(encoding="utf-8"))
        for title, file in re.findall(
            r"^## ([^\n]+)\n\n\[`[^`]+`\]\(([^)]+\.json)\)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
        )
    }


def subscription_of(body: dict[str, Any]) -> Subscription:
    """The subscription that the API makes of a body."""
    given = SubscriptionCreate.model_validate(body)
    assert given.config is not None
    settings = given.protocolsettings
    kind = given.config.kind or registry.infer_kind(given.sink)
    subscription = Subscription(
        id="sub_1",
        sink=given.sink,
        kind=kind,
        options=options_of(given, given.config, kind),
        types=tuple(full_type(one, known_types([OF_SAMPLES])) or one for one in given.types or ()),
        headers=tuple(((settings and settings.headers) or {}).items()),
    )
    registry.kind_named(subscription.kind).check(subscription)
    return subscription


def spoiled(value: Any, text: str) -> Any:
    """A document with another text in place of each text below `data`."""
    if isinstance(value, dict):
        return {name: spoiled(one, text) for name, one in value.items()}
    if isinstance(value, list):
        return [spoiled(one, text) for one in value]
    return text if isinstance(value, str) else value


def check(subscription: Subscription, event: Event, validate: Callable[[str, dict[str, str], bytes], None]) -> None:
    request = registry.kind_named(subscription.kind).render(event, subscription, CONTEXT)
    assert dict(request.headers)["Content-Type"] == "application/json"
    validate(request.url, dict(request.headers), request.body)


@pytest.mark.parametrize("title", TARGETS)
def test_recipe_keeps_the_vendors_rules_for_every_event_it_gets(title: str) -> None:
    subscription = subscription_of(recipes()[title])
    assert subscription.types
    for type in subscription.types:
        assert type in known_types([OF_SAMPLES])
        check(subscription, sample(type), TARGETS[title])
        templates.render(subscription.options["template"], sample(type), CONTEXT, strict=True)


@pytest.mark.parametrize("title", TARGETS)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_recipe_keeps_the_vendors_rules_for_texts_of_strangers(title: str, text: str) -> None:
    subscription = subscription_of(recipes()[title])
    for type in subscription.types or ():
        event = sample(type)
        document = event.document()
        document["data"] = spoiled(document["data"], text)
        body = orjson.dumps(document) if "\ud800" not in text else json.dumps(document).encode()
        check(subscription, replace(event, body=body), TARGETS[title])
