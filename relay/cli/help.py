"""The help of commands: `relay --help` in sections, each command as one whole line, and two examples at the end."""

import textwrap
from collections.abc import Mapping
from typing import Any

SECTIONS = {
    "Run": ("demo", "init", "check", "serve", "migrate", "sandbox", "status", "doctor", "settings"),
    "Jobs and campaigns": ("jobs", "groups", "accounts", "incidents", "intents", "sources", "figures", "erase"),
    "Subscriptions and deliveries": (
        "subscriptions",
        "events",
        "deliveries",
        "replays",
        "listen",
        "verify",
        "signing-secret",
    ),
    "People and keys": ("ui", "tokens", "keys", "audit"),
    "Tools": ("apply", "export", "salesforce-definition"),
}
"""The commands in `relay --help`."""

EXAMPLES: Mapping[str, tuple[str, str]] = {
    "": ("relay demo", "relay jobs add 7f0c --callback https://example.com/hook"),
    "demo": ("relay demo", "relay demo --jobs 100 --speed 120 --compare naive"),
    "serve": ("relay serve --dev", "relay serve --config /etc/revor-relay/relay.yaml --roles api,dispatcher"),
    "init": ("relay init", "relay init --force"),
    "migrate": ("relay migrate", "DATABASE_URL=postgresql://relay@db/relay relay migrate"),
    "check": ("relay check", "relay check --config /etc/revor-relay/relay.yaml --json"),
    "doctor": ("relay doctor", "relay doctor --bundle ticket.txt --about dlv_01m8ss6t3a"),
    "sandbox": ("relay sandbox --port 8090 --speed 20", "relay sandbox --source openai-batch"),
    "apply": ("relay apply --dry-run", "relay apply --prune --yes"),
    "export": ("relay export", "relay export --with-secrets > subscriptions.yaml"),
    "sources": ("relay sources list", "relay sources test openai-batch"),
    "sources list": ("relay sources list", "relay sources list --json"),
    "sources test": ("relay sources test openai-batch", "relay sources test sources/acme.yaml --json"),
    "sources new": (
        "relay sources new https://api.example.com/v1/jobs/42 --header 'Authorization: Bearer KEY'",
        "relay sources new https://api.example.com/v1/jobs/42 --sample answer.json --output acme.yaml",
    ),
    "status": ("relay status", "relay status --watch"),
    "settings": ("relay settings", "relay settings --changed"),
    "ui": ("relay ui", "relay ui --open"),
    "figures": ("relay figures", "relay figures events_delivered --span hour --since 1d"),
    "accounts": ("relay accounts list", "relay accounts list --state needs_reconnect"),
    "accounts list": ("relay accounts list", "relay accounts list --state needs_reconnect"),
    "erase": ("relay erase --metadata email=ada@example.com", "relay erase --job 7f0c"),
    "signing-secret": ("relay signing-secret", "export WEBHOOK_SECRET=$(relay signing-secret)"),
    "salesforce-definition": ("relay salesforce-definition", "relay salesforce-definition salesforce"),
    "listen": ("relay listen --types failed,overdue", "relay listen --forward-to http://127.0.0.1:3000/hook"),
    "verify": (
        "WEBHOOK_SECRET=$(relay signing-secret) relay verify request.txt",
        "relay verify --relay https://relay.example.com request.txt",
    ),
    "jobs": ("relay jobs add 7f0c", "relay jobs list --status failed --since 1d"),
    "jobs add": ("relay jobs add 7f0c --metadata '{\"deal\": 42}'", "relay jobs add 7f0c 81d2 --group 'Q4 campaign'"),
    "jobs import": ("relay jobs import jobs.csv --group 'Q4 campaign'", "cut -f 1 ids.txt | relay jobs import"),
    "jobs list": ("relay jobs list --status failed --since 1d", "relay jobs list --open --metadata deal:42"),
    "jobs show": ("relay jobs show 7f0c", "relay jobs show job_01m8ss6rjv --json"),
    "jobs wait": ("relay jobs wait 7f0c --timeout 600", "relay jobs wait 7f0c --until running"),
    "jobs explain": ("relay jobs explain 7f0c", "relay jobs explain 7f0c --source revor --account sales"),
    "jobs refresh": ("relay jobs refresh 7f0c", "relay jobs refresh job_01m8ss6rjv job_01m8ss6rnk"),
    "jobs remove": ("relay jobs remove 7f0c", "relay jobs remove 7f0c --purge"),
    "groups": ("relay groups list", "relay groups show 'Q4 campaign' --watch"),
    "groups list": ("relay groups list", "relay groups list --limit 10 --json"),
    "groups show": ("relay groups show 'Q4 campaign'", "relay groups show 'Q4 campaign' --watch"),
    "groups close": ("relay groups close 'Q4 campaign'", "relay groups close 'Q4 campaign' --expected 200"),
    "subscriptions": ("relay subscriptions add https://hooks.slack.com/services/…", "relay subscriptions list"),
    "subscriptions add": (
        "relay subscriptions add https://hooks.slack.com/services/…",
        "relay subscriptions add https://example.com/hook --types succeeded,failed",
    ),
    "subscriptions list": ("relay subscriptions list", "relay subscriptions list --callbacks"),
    "subscriptions show": ("relay subscriptions show sub_01m8ss6s2f", "relay subscriptions show sub_01m8ss6s2f --json"),
    "subscriptions edit": (
        "relay subscriptions edit sub_01m8ss6s2f --types failed,overdue",
        "relay subscriptions edit sub_01m8ss6s2f --unset template",
    ),
    "subscriptions test": (
        "relay subscriptions test sub_01m8ss6s2f",
        "relay subscriptions test sub_01m8ss6s2f --type failed",
    ),
    "subscriptions preview": (
        "relay subscriptions preview sub_01m8ss6s2f --type failed",
        "relay subscriptions preview https://hooks.slack.com/services/… --event evt_01m8ss6rnk",
    ),
    "subscriptions pause": (
        "relay subscriptions pause sub_01m8ss6s2f",
        "relay subscriptions pause sub_01m8ss6s2f --json",
    ),
    "subscriptions resume": (
        "relay subscriptions resume sub_01m8ss6s2f",
        "relay subscriptions resume sub_01m8ss6s2f --json",
    ),
    "subscriptions rotate-secret": (
        "relay subscriptions rotate-secret sub_01m8ss6s2f",
        "relay subscriptions rotate-secret sub_01m8ss6s2f --overlap 3600",
    ),
    "subscriptions replay": (
        "relay subscriptions replay sub_01m8ss6s2f --since 1d --dry-run",
        "relay subscriptions replay sub_01m8ss6s2f --since 6h --only all --wait",
    ),
    "subscriptions remove": (
        "relay subscriptions remove sub_01m8ss6s2f",
        "relay subscriptions remove sub_01m8ss6s2f --json",
    ),
    "events": ("relay events list --type failed --since 1d", "relay events tail"),
    "events list": ("relay events list --type failed --since 1d", "relay events list --subject 7f0c --json"),
    "events show": ("relay events show evt_01m8ss6rnk", "relay events show evt_01m8ss6rnk --json"),
    "events tail": ("relay events tail --types failed,overdue", "relay events tail --json"),
    "events publish": ("relay events publish event.json", "cat events.json | relay events publish"),
    "deliveries": ("relay deliveries list --state dead", "relay deliveries show dlv_01m8ss6t3a"),
    "deliveries list": (
        "relay deliveries list --state dead --since 1d",
        "relay deliveries list --state dead --group-by reason,sink",
    ),
    "deliveries show": ("relay deliveries show dlv_01m8ss6t3a", "relay deliveries show dlv_01m8ss6t3a --raw"),
    "deliveries retry": (
        "relay deliveries retry dlv_01m8ss6t3a",
        "relay deliveries retry --state dead --subscription sub_01m8ss6s2f --since 1d",
    ),
    "deliveries resolve": (
        "relay deliveries resolve dlv_01m8ss6t3a --fate sent",
        "relay deliveries resolve dlv_01m8ss6t3a --fate not_sent",
    ),
    "replays": ("relay replays list", "relay replays show rpl_01m8ss6v4b --wait"),
    "replays list": ("relay replays list", "relay replays list --limit 10 --json"),
    "replays show": ("relay replays show rpl_01m8ss6v4b", "relay replays show rpl_01m8ss6v4b --wait"),
    "replays stop": ("relay replays stop rpl_01m8ss6v4b", "relay replays stop rpl_01m8ss6v4b --json"),
    "incidents": ("relay incidents list --state open", "relay incidents show inc_01m8ss6w5c"),
    "incidents list": ("relay incidents list --state open", "relay incidents list --account sales --json"),
    "incidents show": ("relay incidents show inc_01m8ss6w5c", "relay incidents show inc_01m8ss6w5c --repeat safe"),
    "intents": ("relay intents list", "relay intents resolve int_01m8ss6x6d --fate not_sent"),
    "intents list": ("relay intents list", "relay intents list --json"),
    "intents resolve": (
        "relay intents resolve int_01m8ss6x6d --fate sent --job-id 7f0c",
        "relay intents resolve int_01m8ss6x6d --fate not_sent",
    ),
    "intents remove": ("relay intents remove int_01m8ss6x6d", "relay intents remove int_01m8ss6x6d --json"),
    "tokens": ("relay tokens add crm --scopes jobs:write", "relay tokens remove crm"),
    "tokens add": (
        "relay tokens add crm --scopes jobs:write,read --expires 90d",
        "relay tokens add grafana --scopes metrics --network 10.0.0.0/8",
    ),
    "tokens list": ("relay tokens list", "relay tokens list --json"),
    "tokens remove": ("relay tokens remove crm", "relay tokens remove tok_01m8ss6y7e"),
    "keys": ("relay keys generate", "relay keys rotate signing"),
    "keys generate": ("relay keys generate", "export RELAY_ENCRYPTION_KEY=$(relay keys generate)"),
    "keys rotate": ("relay keys rotate", "relay keys rotate signing --overlap 86400"),
    "audit": ("relay audit list --since 1d", "relay audit verify"),
    "audit list": ("relay audit list --since 1d", "relay audit list --actor crm --action subscriptions.create"),
    "audit verify": ("relay audit verify", "relay audit verify --json"),
}
"""Two for each command, by its words after `relay`."""


def explain(name: str, command: Any) -> None:
    """Gives a command, and those below it, its line in lists and its examples."""
    command.short_help = line_of(command)
    command.epilog = examples(name)
    for child, below in getattr(command, "commands", {}).items():
        explain(f"{name} {child}", below)


def line_of(command: Any) -> str:
    """The first sentence of a command's help, without its full stop."""
    return " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def examples(name: str) -> str | None:
    """The examples of a command as the end of its help; None if it has none."""
    if name not in EXAMPLES:
        return None
    return "\b\nExamples:\n" + textwrap.indent("\n".join(EXAMPLES[name]), "  $ ")
