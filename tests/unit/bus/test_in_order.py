"""Messages of one order are published one behind the other."""

import asyncio

import pytest

from relay.bus.shared import publish_in_order
from relay.core.deliveries.broker import Message, Published

REFUSED = Published(error="nack")


def messages(*orders: str | None) -> list[Message]:
    return [Message(destination="d", body=b"", id=str(number), order=order) for number, order in enumerate(orders)]


async def publish(given: list[Message], answer) -> list[Published | None]:
    results: list[Published | None] = [None] * len(given)
    await publish_in_order(given, results, answer)
    return results


async def test_those_of_other_orders_are_on_their_way_together():
    under_way: set[str] = set()
    seen: list[set[str]] = []

    async def answer(message: Message) -> Published:
        under_way.add(message.id)
        await asyncio.sleep(0)
        seen.append(set(under_way))
        under_way.remove(message.id)
        return Published()

    await publish(messages("a", "b", None, "a", None), answer)
    assert max(seen, key=len) >= {"0", "1", "2", "4"}
    assert not any({"0", "3"} <= one for one in seen)


async def test_what_is_behind_a_refused_message_is_not_sent():
    sent: list[str] = []

    async def answer(message: Message) -> Published:
        sent.append(message.id)
        return REFUSED if message.id == "0" else Published()

    found = await publish(messages("a", "a", "b", "a", None), answer)
    assert [one and one.error for one in found] == ["nack", "behind", None, "behind", None]
    assert sent == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), "render"),
        (TypeError("s3cr3t"), "render"),
        (ConnectionResetError("s3cr3t"), "read"),
        (RuntimeError("s3cr3t"), "read"),
        (asyncio.CancelledError(), "read"),  # by the client, of what waits on a connection that ends
    ],
)
async def test_failure_of_the_client_is_of_one_message(error, word):
    async def answer(message: Message) -> Published:
        if message.id == "0":
            raise error
        return Published()

    found = await publish(messages(None, None), answer)
    assert [one and one.error for one in found] == [word, None]
    assert "s3cr3t" not in str(found)


async def test_cancelled_it_keeps_what_has_been_acknowledged():
    cancelled: list[str] = []

    async def answer(message: Message) -> Published:
        if message.id != "1":
            return Published()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(message.id)
            raise
        raise AssertionError

    results: list[Published | None] = [None] * 3
    task = asyncio.create_task(publish_in_order(messages("a", "b", None), results, answer))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert results == [Published(), None, Published()]
    assert cancelled == ["1"]
