"""The kind of a sink, inferred from its URL."""

import pytest

from relay.core.access.netguard import GuardPolicy, refusal_of_url
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers import registry
from tests.support.kind_checks import check

TRIGGER = "/triggers/T0123456789/3141592653589/c6e6c0d868b3054ca0f4611a5dbadaf"
HOOK = "/api/webhooks/223704706495545344/3d89bb7572e0fb30d812"
WORKFLOW = "/workflows/0123456789abcdef/triggers/manual/paths/invoke"
QUERY = "?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=secret"
CHATS = {
    "slack": [
        "https://hooks.slack.com/services/T0/B0/x",
        "https://HOOKS.SLACK.COM./services/T0/B0/x",
        "https://hooks.slack-gov.com/services/T0/B0/x",
    ],
    "slack_workflow": [
        f"https://hooks.slack.com{TRIGGER}",
        f"https://hooks.slack-gov.com{TRIGGER}",
        "https://hooks.slack.com/workflows/T0/A0/1/secret",
    ],
    "teams": [
        f"https://0123.4a.environment.api.powerplatform.com:443/powerautomate/automations/direct{WORKFLOW}{QUERY}",
        f"https://prod-05.switzerlandnorth.logic.azure.com:443{WORKFLOW}{QUERY}",
        f"https://prod-05.usgovtexas.logic.azure.us{WORKFLOW}",
        f"https://0123.environment.api.gov.powerplatform.microsoft.us/powerautomate{WORKFLOW}",
    ],
    "discord": [
        f"https://{host}{HOOK}"
        for host in ("discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com", "Discord.com.")
    ],
}
OTHERS = {
    "slack": ["https://slack.com/"],
    "flat": [
        "https://hooks.zapier.com/hooks/catch/123456/abcdef/",
        "https://hook.eu1.make.com/abc",
        "https://hook.make.com/abc",
        "https://hook.us1.make.celonis.com/abc",
        "https://hook.integromat.com/abc",
        "https://acme.app.n8n.cloud/webhook/abc",
        "https://acme.app.n8n.cloud/webhook-test/abc",
        "https://eo1a2b3.m.pipedream.net",
        "https://maker.ifttt.com/trigger/failed/json/with/key/abc",
    ],
    "pipedrive": ["https://acme.pipedrive.com"],
    "hubspot": ["https://api.hubapi.com", "https://api-eu1.hubapi.com"],
    "salesforce": [
        "https://acme--dev.sandbox.my.salesforce.com",
        "https://login.salesforce.com",
        "https://acme.lightning.force.com",
        "https://acme.my.salesforce.mil/",
    ],
    "pull": [""],
    "webhook": [
        "https://hooks.slack.com.evil.example/services",
        "https://evil.example/?u=https://hooks.slack.com/",
        "https://api.hubapi.com.evil.example",
        "https://acme.my.salesforce.com/services/apexrest/jobs",
        "https://api.hubapi.com/automation/v4/webhook-triggers/1/abc",
        "https://my.salesforce.com.evil.example",
        "https://pipedrive.com.evil.example",
        *(f"https://{host}{HOOK}" for host in ("mydiscord.com", "discord.com.evil.example", "discord.gg")),
        "https://acme.app.n8n.cloud/rest/login",
        "https://www.make.com/en",
        "https://hooks.zapier.com.evil.example/hooks/catch/1/a/",
        "https://n8n.example.com/webhook/abc",
        "https://webhook.make.com.evil.example/",
        "https://x.example/",
        "https://[::1",
        "not a url",
    ],
}


def test_kind_is_inferred_from_host_and_path() -> None:
    for known in (CHATS, OTHERS):
        for kind, sinks in known.items():
            assert {sink: registry.infer_kind(sink) for sink in sinks} == dict.fromkeys(sinks, kind)


def test_inferred_urls_of_chats_are_accepted_and_shown_without_their_secrets() -> None:
    for name, sinks in CHATS.items():
        kind = registry.kind_named(name)
        for sink in sinks:
            assert refusal_of_url(sink, GuardPolicy()) is None
            check(kind, Subscription(id="sub_1", sink=sink, kind=name))
            assert kind.redacted_url(sink).endswith("/…")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("slak", "did you mean slack?"), ("WebHook", "did you mean webhook?"), ("carrier pigeon", "webhook, slack")],
)
def test_unknown_kind_is_refused_with_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=hint) as caught:
        registry.kind_named(name)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [("/config/kind", "unknown_kind")]
