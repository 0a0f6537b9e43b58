"""Slack with a bot token: one message for each incident and group, which is edited, and details in its thread.

Source: Slack's documentation of chat.postMessage and chat.update.
"""

from typing import Any

from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import Dialogue, RenderContext
from subscribers.common.chat import Message, message, post
from subscribers.slack.answers import Place, place_of, read_answer
from subscribers.slack.options import PATH, SlackOptions
from subscribers.slack.render import message_blocks, plain
from subscribers.slack.words import message_key, update_of
from subscribers.wording.text import mapping

_UPDATE = "/api/chat.update"


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    """Of an incident or a group: the message is posted or edited, then the detail is posted in its thread. Any
    other event is a message of its own."""
    if message_key(event) is None:
        answer = read_answer((yield _post(subscription, message(event, subscription, context))), now)
        return Ended(outcome=answer.outcome)
    channel, shown = SlackOptions.of(subscription).channel, memory.get("message")
    is_there = memory.get("asked") == channel and isinstance(shown, dict)  # in the channel that it has now
    update = update_of(event, subscription, context, mapping(shown) if is_there else {})
    place = place_of(memory) if is_there and not update.restarts else None
    posted = False
    for _ in range(2):  # once more if the message was deleted
        if place is None:
            answer = read_answer((yield _post(subscription, update.shown)), now)
            place, posted = answer.place, True
            if not answer.ok or place is None:
                return Ended(outcome=answer.outcome)
        elif update.edits:
            answer = read_answer((yield _update(subscription, update.shown, place)), now)
            if answer.gone:
                place = None
                continue
            if not answer.ok:
                return Ended(outcome=answer.outcome)
        kept = {"asked": channel, "channel": place[0], "ts": place[1], "message": update.memory}
        if update.detail is None or (posted and update.repeats):
            return Ended(outcome=answer.outcome, remember=kept)
        answer = read_answer((yield _post(subscription, update.detail, place, kept if posted else None)), now)
        if not answer.gone:
            return Ended(outcome=answer.outcome, remember=kept)
        place = None
    return Ended(outcome=answer.outcome)


DIALOGUE = Dialogue(key=lambda event, _: message_key(event), steps=_steps)
"""The deliveries of a subscription with a bot token."""


def _post(
    subscription: Subscription, message: Message, thread: Place | None = None, remember: Memory | None = None
) -> Step:
    """Posts a message: in the channel, or in a thread, where only its followers are notified."""
    if thread is None:
        where: dict[str, Any] = {"channel": SlackOptions.of(subscription).channel}
    else:
        where = {"channel": thread[0], "thread_ts": thread[1], "reply_broadcast": False}
    payload = {**where, **_content(message), "unfurl_links": False, "unfurl_media": False}
    name = "chat.postMessage" if thread is None else "chat.postMessage in the thread"
    return Step(request=post(subscription.sink, payload), name=name, expected=_EXPECTED, remember=remember)


def _update(subscription: Subscription, message: Message, place: Place) -> Step:
    payload = {"channel": place[0], "ts": place[1], **_content(message), "parse": "none"}
    url = subscription.sink.removesuffix(PATH) + _UPDATE
    return Step(request=post(url, payload), name="chat.update", expected=_EXPECTED)


_EXPECTED = dumps({"ok": True, "channel": "{channel}", "ts": "{ts-of-the-message}"})


def _content(message: Message) -> dict[str, Any]:
    return {"text": plain(message.sentence), "blocks": message_blocks(message)}
