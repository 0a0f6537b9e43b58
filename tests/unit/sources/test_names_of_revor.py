"""Where Python code outside the sandbox and the demo names Revor, and why: every other source gets the same treatment.

Docstrings and comments are no code. `revor-relay` is this product.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from relay.core.events.event import Origin, job_event_types
from relay.core.events.sentences import upstream_named
from relay.core.jobs.job import short_type
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from relay.web.pages.deliveries import full_type
from relay.web.pages.deliveries import short_type as shown_type
from subscribers.registry import kind_named

ROOT = Path(__file__).parents[3]
PLAYED = (ROOT / "relay" / "sandbox", ROOT / "relay" / "cli" / "demo")
"""The stand-in for Revor, and the program that shows the relay with it."""
OURS = re.compile(r"revor[-_ ]relay", re.IGNORECASE)
NAME = re.compile(r"[\w.$/{-]*revor[\w.}/-]*", re.IGNORECASE)

EXAMPLES = "examples in the models of the API"
SET_UP = "the first settings file, and the variables that the product reads"
REASONS: Mapping[str, Mapping[str, set[str]]] = {
    "the default source, and the values of its settings": {
        "relay/core/jobs/job.py": {"revor"},
        "relay/config/settings.py": {
            *("REVOR_API_KEY", "${REVOR_API_KEY}", "REVOR_BASE_URL", "//revor.ai", "revor", "Revor"),
        },
    },
    SET_UP: {
        "relay/cli/node/local.py": {
            *("revor.key", "Revor", "REVOR_API_KEY", "${REVOR_API_KEY}"),
        },
        "relay/cli/node/serve.py": {"REVOR_BASE_URL", "Revor"},
        "relay/cli/__init__.py": {"Revor"},
    },
    "the sandbox of Revor, which is the default": {
        "relay/cli/node/sandbox.py": {
            *("revor", "Revor", "REVOR", "REVOR_API_KEY", "REVOR_BASE_URL", "sk-revor-default"),
        },
    },
    "kept from publishers, also where no source has them": {
        "relay/core/events/event.py": {"ai.revor"},
        "relay/core/published.py": {"revor.ai"},
    },
    "what secrets and lists of people look like": {
        "relay/redaction.py": {"sk-revor-"},
        "relay/cli/jobs/importing.py": {"revor"},
    },
    EXAMPLES: {
        "relay/api/access/tokens.py": {"revor"},
        "relay/api/connect_accounts.py": {"revor"},
        "relay/api/deliveries/deliveries.py": {"ai.revor.job.failed"},
        "relay/api/events/events.py": {"ai.revor.job.failed", "ai.revor.job"},
        "relay/api/figures.py": {"revor/default"},
        "relay/api/incidents.py": {"revor", "Revor"},
        "relay/api/jobs/groups.py": {"revor"},
        "relay/api/jobs/intents.py": {"revor"},
        "relay/api/jobs/jobs.py": {"revor"},
        "relay/api/jobs/registration.py": {"ai.revor.job.failed"},
        "relay/api/subscriptions/declared.py": {"ai.revor.job.failed"},
        "relay/api/subscriptions/models.py": {"ai.revor.job.failed"},
        "relay/api/subscriptions/previews.py": {"ai.revor.job.failed"},
        "relay/api/system.py": {"revor"},
    },
}


def texts(path: Path) -> Iterator[str]:
    """The texts in a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield OURS.sub("", node.value)


def test_every_place_that_names_revor_has_a_reason() -> None:
    files = [path for folder in ("relay", "subscribers") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {
        str(path.relative_to(ROOT)): {name for text in texts(path) for name in NAME.findall(text)}
        for path in files
        if not any(folder in path.parents for folder in PLAYED)
    }
    reasons = {file: names for files in REASONS.values() for file, names in files.items()}
    assert {file: names for file, names in found.items() if names} == reasons


# The same for other sources ------------------------------------------------------------------------------------------

OTHER = "com.openai.batch.job"
BASE = "https://relay.example"
KNOWN = known_types(["ai.revor.job", OTHER, "crm.job"])


@pytest.mark.parametrize(
    ("prefix", "name"), [("ai.revor.job", "Revor"), (OTHER, "Openai"), ("crm.job", "Crm"), ("", "")]
)
def test_type_tells_the_upstream(prefix: str, name: str) -> None:
    assert upstream_named(prefix) == name


@pytest.mark.parametrize(
    ("type", "short"),
    [
        ("ai.revor.job.failed", "failed"),
        ("com.openai.batch.job.failed", "failed"),
        ("ai.revor.account.removed", "ai.revor.account.removed"),
        ("com.acme.job.paid", "com.acme.job.paid"),
        ("relay.test", "relay.test"),
    ],
)
def test_short_type_of_a_job_s_event(type: str, short: str) -> None:
    assert short_type(type) == short


@pytest.mark.parametrize(
    ("type", "short"),
    [
        ("ai.revor.job.failed", "job.failed"),
        ("ai.revor.account.removed", "account.removed"),
        ("com.openai.batch.job.failed", "batch.job.failed"),
        ("crm.job.failed", "job.failed"),
        ("relay.source.down", "source.down"),
        ("com.acme.order.paid", "com.acme.order.paid"),
    ],
)
def test_type_in_the_dashboard(type: str, short: str) -> None:
    assert shown_type(type, KNOWN) == short
    assert full_type(short, KNOWN) == ("ai.revor.job.failed" if short == "job.failed" else type)


@pytest.mark.parametrize("type", [*job_event_types(OTHER), "relay.source.down", "relay.incident.opened"])
def test_sample_names_its_own_upstream(type: str) -> None:
    origin = Origin(source="https://api.openai.com/v1/batches", type_prefix=OTHER, dataschema=f"{BASE}/job.json")
    event = sample_event(type, event_id="evt_1", now=0.0, origin=origin, dataschema_base=BASE, source="openai")
    text = event.body.decode()
    assert "revor" not in text.lower()
    named = {"failed", "retrying", "overdue", "not_found", "status_unknown", "down", "opened"}
    assert ("Openai" in text) is (type.rpartition(".")[2] in named)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (["ai.revor.job.failed", "ai.revor.job.overdue"], "a sink or Revor has trouble"),
        (["ai.revor.job.failed", "com.openai.batch.job.failed"], "a sink or Revor or Openai has trouble"),
        ([], "a sink or an upstream has trouble"),
    ],
)
def test_chat_names_the_upstreams_that_it_is_about(types: list[str], said: str) -> None:
    shown = {"types": types, "config": {"kind": "slack"}}
    assert said in kind_named("slack").arriving(shown, types_given=False)
