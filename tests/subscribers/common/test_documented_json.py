"""The JSON in docs/guides/ is what catch hooks and workflows of Slack get.

`UPDATE_MESSAGES=1 pytest tests/subscribers/common/test_documented_json.py` writes it anew.
"""

import json
import os
import re
from pathlib import Path

import orjson
import pytest

from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.slack.test_messages import RECONNECT, job_event

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "guides"
METADATA = {
    "recipient_name": "Alex",
    "deal": "Example Ltd, renewal",
    "owner": "Kim",
    "url": "https://crm.example/deals/42",
}
FAILED = job_event("failed", problem=RECONNECT, metadata=METADATA)


@pytest.mark.parametrize(("kind", "page"), [("flat", "zapier-make-n8n.md"), ("slack_workflow", "slack-workflow.md")])
def test_json_in_the_documentation_is_what_arrives(kind: str, page: str) -> None:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    sent = orjson.loads(registry.kind_named(kind).render(FAILED, subscription, RenderContext()).body)
    shown = json.dumps(sent, indent=1, ensure_ascii=False)
    file = FOLDER / page
    text = file.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- what kind {kind} sends -->\n```json\n).*?(\n```)", re.DOTALL)
    assert block.search(text), f"{page} has no block for {kind}"
    if os.environ.get("UPDATE_MESSAGES"):
        text = block.sub(lambda found: found[1] + shown + found[2], text)
        file.write_text(text, encoding="utf-8")
    assert shown in text
