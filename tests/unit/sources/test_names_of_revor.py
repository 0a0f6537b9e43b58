"""Where code, templates and texts outside the sandbox and the demo name Revor: every other source is treated the same.

Docstrings and comments are no code. `revor-relay` is this product.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from relay.core.events.event import Origin, job_event_types
from relay.core.jobs.job import short_type
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types, wanted_types
from relay.web.pages.deliveries import short_type as shown_type
from tests.support.job_events import origin_of

ROOT = Path(__file__).parents[3]
FOLDERS = tuple(ROOT / folder for folder in ("relay", "subscribers"))
PLAYED = tuple(ROOT / "relay" / place for place in ("sandbox", "cli/demo", "cli/node/sandbox.py", "sources/revor"))
"""The stand-in for Revor, the program that shows the relay with it, and its definition."""
OURS = re.compile(r"revor[-_ ]relay", re.IGNORECASE)
NAME = re.compile(r"[\w.$/{-]*revor[\w.}/-]*", re.IGNORECASE)
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
SHOWN = (".html", ".yaml", ".js", ".css", ".svg", ".txt", ".json")

ALLOWED: Mapping[str, set[str]] = {
    "relay/core/jobs/job.py": {"revor"},  # the default source, and its preset
    "relay/config/settings.py": {"REVOR_API_KEY", "${REVOR_API_KEY}", "REVOR_BASE_URL"},
    "relay/cli/node/local.py": {"REVOR_API_KEY", "${REVOR_API_KEY}"},
    "relay/web/texts/en/sources.yaml": {"REVOR_API_KEY"},
    "relay/cli/examples.txt": {"revor"},  # the value of an example
    "relay/api/http/fields.py": {"revor", "ai.revor.job.failed"},  # values of examples
}


def names_in(path: Path) -> set[str]:
    if not NAME.search(OURS.sub("", path.read_text(encoding="utf-8"))):
        return set()  # most files: they need not be read as programs
    return {name.strip(".") for text in code_of(path) for name in NAME.findall(OURS.sub("", text))}


def code_of(path: Path) -> Iterator[str]:
    """The tokens of a program that are no comments and no docstrings; any other file as it is."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield text
        return
    alone = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    docstrings = {
        number
        for node in alone
        if isinstance(node.value, ast.Constant)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE and token.start[0] not in docstrings:
            yield token.string


def test_only_the_listed_places_name_revor() -> None:
    files = [path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.suffix in (".py", *SHOWN)]
    others = [path for path in files if not any(played in (path, *path.parents) for played in PLAYED)]
    found = {str(path.relative_to(ROOT)): names for path in others if (names := names_in(path))}
    assert found == ALLOWED


# The same for other sources ------------------------------------------------------------------------------------------

OTHER = "com.openai.batch.job"
BASE = "https://relay.example"
KNOWN = known_types(map(origin_of, ("ai.revor.job", OTHER, "crm.job")))


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
    assert type in wanted_types(short, KNOWN)


@pytest.mark.parametrize("type", [*job_event_types(origin_of(OTHER)), "relay.source.down", "relay.incident.opened"])
def test_sample_names_its_own_upstream(type: str) -> None:
    origin = Origin(
        source="https://api.openai.com/v1/batches", type_prefix=OTHER, dataschema=f"{BASE}/job.json", title="OpenAI"
    )
    event = sample_event(type, event_id="evt_1", now=0.0, origin=origin, dataschema_base=BASE, source="openai")
    text = event.body.decode()
    assert "revor" not in text.lower()
    named = {"failed", "retrying", "overdue", "not_found", "status_unknown", "down", "opened"}
    assert ("OpenAI" in text) is (type.rpartition(".")[2] in named)
