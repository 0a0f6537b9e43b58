"""Loading the subscriptions again."""

from unittest.mock import AsyncMock, Mock

import pytest

from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from tests.support.delivery_kit import shared


async def test_subscriptions_whose_filters_cannot_be_read_are_held_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Subscription(id="sub_1", sink="https://a.example/", created_at=0.0, filters=({"cel": "true"},))
    held = Subscription(id="sub_1", sink="https://a.example/", created_at=0.0, filters=old.filters, state="paused")
    subscriptions = Mock(version=1, all=AsyncMock(return_value=[old]), hold_unreadable=AsyncMock(return_value=[held]))
    store = Mock(subscriptions=subscriptions)
    dispatcher = Dispatcher(shared(store, lambda: 7.0, kinds={}))  # no kind is known: nothing is sent
    monkeypatch.setattr(dispatcher.signer, "refresh", AsyncMock())
    gate = AsyncMock(return_value=[held])
    monkeypatch.setattr(dispatcher.handshakes, "gate", gate)
    await dispatcher._refresh()
    subscriptions.hold_unreadable.assert_awaited_once_with([old], 7.0)
    gate.assert_awaited_once_with([held])
