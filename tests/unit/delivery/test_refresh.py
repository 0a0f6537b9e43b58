"""Loading the subscriptions again: others have their turn while filters are compiled."""

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest

from relay.core.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.settings import DeliverySettings


async def test_other_requests_have_their_turn_between_two_filters_that_are_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("cel")
    subscriptions = [
        Subscription(id=f"sub_{n}", sink="https://a.example/", created_at=0.0, filters=({"cel": f"data.n == {n}"},))
        for n in range(20)
    ]
    dispatcher = Dispatcher(
        deliveries=Mock(),
        subscriptions=Mock(version=1, all=AsyncMock(return_value=subscriptions)),
        memories=Mock(),
        handshakes=Mock(),
        credentials=Mock(),
        kinds=Mock(side_effect=KeyError),  # no kind is known: nothing is sent
        context=Mock(),
        transport=Mock(),
        clock=lambda: 0.0,
        settings=DeliverySettings(),
        metrics=Mock(),
        holder=Mock(),
        signer=Mock(refresh=AsyncMock()),
    )
    monkeypatch.setattr(dispatcher.handshakes, "gate", AsyncMock(return_value=subscriptions))
    refreshing = asyncio.create_task(dispatcher._refresh())
    turns = 0
    while not refreshing.done():
        await asyncio.sleep(0)
        turns += 1
    await refreshing
    assert turns > len(subscriptions)
