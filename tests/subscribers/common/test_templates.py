"""Templates of subscriptions: what they can name, how they are sent, and what they never reach."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential
from relay.core.events.event import Event, relay_event
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.errors import InvalidRequest, NotRenderable
from relay.installation import install_command
from subscribers.base import RenderContext
from subscribers.common import templates
from subscribers.common.options import CrmOptions
from subscribers.webhook import Webhook
from tests.support.extras import without_templates
from tests.support.job_events import NOW, sample
from tests.support.kind_checks import check

CONTEXT = RenderContext(account_names={"default": "Sales"}, public_url="https://relay.example")
SUBSCRIPTION = Subscription(
    id="sub_1",
    sink="https://receiver.example/hooks?key=sink-secret",
    secrets=(SigningSecret(value="whsec_signing-secret"),),
    headers=(("X-Key", "header-secret"),),
)


FAILED = sample("ai.revor.job.failed")


def rendered(template: Any, event: Event = FAILED, *, strict: bool = True) -> Any:
    return orjson.loads(templates.render(template, event, CONTEXT, strict=strict))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ event.type }}", "ai.revor.job.failed"),
        ("{{ event.data }}", None),
        ("{{ data.status }}", "failed"),
        ("{{ job.status }}", "failed"),
        ("{{ metadata.deal }}", "Example Ltd, renewal"),
        ("{{ hint.who }}", "account owner"),
        ("{{ account }}", {"name": "default", "display_name": "Sales"}),
        ("{{ sentence }}", "LinkedIn outreach to Alex failed: the account needs reconnecting"),
        ("{{ subscription.sink }}", None),
    ],
)
def test_template_names_parts_of_the_event(template: str, expected: Any) -> None:
    if expected is None:
        with pytest.raises(NotRenderable) as caught:
            rendered(template)
        assert caught.value.errors[0].pointer == "/config/template"
    else:
        assert rendered(template) == expected


@pytest.mark.parametrize(
    "data", [{}, {"job": None, "hint": 7, "account": [], "metadata": "x", "request": {"metadata": 1}}]
)
def test_event_with_odd_data_is_rendered(data: dict[str, Any]) -> None:
    event = relay_event("evt_1", "relay.test", NOW, data, dataschema="http://x/schemas/relay-test.v1.json")
    template = ["{{ job.x }}{{ metadata.x }}{{ hint.x }}{{ account.name }}{{ sentence }}"]
    assert isinstance(rendered(template, event, strict=False)[0], str)


def test_strict_webhook_names_what_is_missing_and_another_sends_nothing_in_its_place() -> None:
    lax = replace(SUBSCRIPTION, options={"template": {"a": {"b": "{{ metadata.nope }}"}}})
    assert Webhook().render(FAILED, lax, CONTEXT).body == b'{"a":{"b":""}}'
    with pytest.raises(NotRenderable) as caught:
        Webhook().render(FAILED, replace(lax, options={**lax.options, "strict": True}), CONTEXT)
    assert str(caught.value) == "/config/template/a/b: metadata.nope is absent"
    misspelt = replace(lax, options={"template": "{{ metadta.deal }}", "strict": True})
    with pytest.raises(NotRenderable, match="metadta is absent: known are event, data, job, metadata, hint, account, "):
        Webhook().render(FAILED, misspelt, CONTEXT)


def test_no_variable_has_a_secret() -> None:
    credential = SinkCredential(id="crd_1", origin="https://receiver.example", fields={"accesstoken": "secret-too"})
    whole = [f"{{{{ {name} }}}}" for name in (*templates.VARIABLES, "subscription", "context", "settings", "env")]
    subscription = replace(SUBSCRIPTION, options={"template": whole}, credential=credential)
    body = Webhook().render(FAILED, subscription, CONTEXT).body
    assert not [word for word in (b"secret", b"crd_1", b"receiver.example", b"whsec_") if word in body]


def test_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_templates(monkeypatch)
    with pytest.raises(InvalidRequest) as caught:
        check(Webhook(), replace(SUBSCRIPTION, options={"template": {}}))
    [error] = caught.value.errors
    assert (error.pointer, error.code) == ("/config/template", "extra_missing")
    assert error.detail == f"templates need the extra templates: {install_command('templates')}"


def test_fields_that_are_html_escape_what_they_print_and_others_do_not() -> None:
    template = {
        "content": ["<b>{{ metadata.deal }}</b>", "{{ metadata | json }}", "{{ sentence }}", "{{ metadata.many }}"],
        "subject": "{{ metadata.deal }}",
        "number": "{{ metadata.nth }}",
    }
    metadata = {"deal": "<i>'x' & y</i>", "<b>": 1, "nth": 7, "recipient_name": "A<u>", "many": ["<s>"]}
    event = sample("ai.revor.job.failed", metadata)
    subscription = Subscription(id="sub_1", sink="https://crm.example", options={"template": template})
    found = templates.own_fields(event, CrmOptions.of(subscription), CONTEXT, ("content",))
    assert (found["subject"], found["number"]) == ("<i>'x' & y</i>", 7)
    first, all_of_it, said, many = found["content"]
    assert first == "<b>&lt;i&gt;&#x27;x&#x27; &amp; y&lt;/i&gt;</b>"
    assert not {"<", ">"} & set(f"{all_of_it}{said}{many}")
    assert templates.own_fields(event, CrmOptions.of(SUBSCRIPTION), CONTEXT, ("content",)) == {}
