"""Renders of templates take turns by owner, and leave slots to those without."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.webhook import Webhook
from tests.support.simulation_world import open_world, seen

TEMPLATE = {"template": {"status": "{{ event.status }}"}}
BUSY, OTHER = None, "revor/default"


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The owners of what was rendered, in order."""
    owners: list[str | None] = []
    real = Webhook.render

    def render(self: Webhook, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        owners.append(subscription.owner)
        return real(self, event, subscription, context)

    monkeypatch.setattr(Webhook, "render", render)
    return owners


@pytest.mark.parametrize("options", [TEMPLATE, {**TEMPLATE, "dry_run": True}], ids=["sent", "dry"])
async def test_renders_alternate_between_owners(
    tmp_path: Path, rendered: list[str | None], options: dict[str, Any]
) -> None:
    async with open_world(tmp_path) as world:
        for _ in range(4):
            await world.subscribe(owner=BUSY, options=options)
        for _ in range(2):
            await world.subscribe(owner=OTHER, options=options)
        for job in range(3):
            await world.register(f"job {job}", seen("queued"))
        await world.step()
        assert (rendered.count(BUSY), rendered.count(OTHER)) == (12, 6)
        beside = rendered[1 : len(rendered) - rendered[::-1].index(OTHER)]  # the first is rendered at once
        again = [one for one, other in itertools.pairwise(beside) if one == other]
        assert again == []
