"""`/v1/deliveries`: one per event and subscription, with all attempts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from relay.api.operations import Call
from relay.api.problems import invalid_parameter
from relay.api.resource import json_response, page_response
from relay.api.views import attempt_view, delivery_group_view, delivery_view, header_view
from relay.core.delivery import Delivery
from relay.core.records import Page
from relay.errors import Conflict, NotFound

GROUPED_BY: Mapping[str, str] = {"reason": "reason", "sink": "subscription_id", "day": "day"}
"""The values of `group_by`, and the column that each groups by."""


async def list_deliveries(call: Call) -> Response:
    """`GET /v1/deliveries`: newest first, or counted by group."""
    query = dict(call.query)
    query["subscription_id"], query["event_id"] = query.pop("subscription"), query.pop("event")
    if group_by := query.pop("group_by"):
        return await _groups(call, group_by, query)
    page = await call.ports.deliveries.page(**query)
    sinks = await _sinks(call, (one.subscription_id for one in page.items))
    shown = tuple(delivery_view(one, sinks.get(one.subscription_id)) for one in page.items)
    return page_response(call.request, Page(items=shown, next_cursor=page.next_cursor))


async def _groups(call: Call, group_by: Sequence[str], query: dict[str, Any]) -> Response:
    if query.pop("cursor") is not None:
        detail = "cursor: groups have no pages; use `limit` for the number of groups"
        raise invalid_parameter("cursor", detail, code="invalid_cursor")
    found = await call.ports.deliveries.groups([GROUPED_BY[word] for word in group_by], **query)
    sinks = await _sinks(call, (group.subscription_id for group in found.items if group.subscription_id is not None))
    return json_response(
        {
            "items": [delivery_group_view(group, sinks.get(group.subscription_id or "")) for group in found.items],
            "next_cursor": None,
            "group_by": list(group_by),
            "scanned": found.scanned,
            "truncated": found.truncated or found.more,
        }
    )


async def _sinks(call: Call, ids: Iterable[str]) -> dict[str, str]:
    """The redacted sink of each subscription that still exists."""
    sinks: dict[str, str] = {}
    for id in set(ids):
        subscription = await call.ports.subscriptions.get(id)
        if subscription is not None:
            sinks[id] = call.ports.kinds.redacted_url(subscription.kind, subscription.sink)
    return sinks


async def get(call: Call) -> Response:
    """`GET /v1/deliveries/{id}`."""
    return await _shown(call, await _find(call))


async def request(call: Call) -> Response:
    """`GET /v1/deliveries/{id}/request`: the request with a current signature, to test a receiver's check."""
    found = await _find(call)
    subscription = await call.ports.subscriptions.get(found.subscription_id)
    event = await call.ports.events.get(found.event_id)
    if subscription is None or event is None:
        raise Conflict(f"the subscription of delivery {found.id} was removed", code="subscription_removed")
    sent = call.ports.delivering.request_of(subscription, event)
    headers = {name: value if is_signed_name(name) else header_view(name, value) for name, value in sent.headers}
    sink = call.ports.kinds.redacted_url(subscription.kind, subscription.sink)
    return json_response({"method": sent.method, "url": sink, "headers": headers, "body": sent.body.decode()})


def is_signed_name(name: str) -> bool:
    """Whether this is a header of Standard Webhooks. These are not redacted: they are only valid with the body."""
    return name.lower() in ("webhook-id", "webhook-timestamp", "webhook-signature")


async def retry(call: Call) -> Response:
    """`POST /v1/deliveries/{id}/retry`: send it again with a fresh retry schedule."""
    found = await _find(call)
    if await call.ports.subscriptions.get(found.subscription_id) is None:
        detail = f"subscription {found.subscription_id} was removed, so there is no sink to send this to"
        raise Conflict(detail, code="subscription_removed")
    delivery = await call.ports.deliveries.retry(call.id, call.ports.clock())
    call.ports.delivering.wake()
    return await _shown(call, delivery, 202)


async def _find(call: Call) -> Delivery:
    delivery = await call.ports.deliveries.get(call.id)
    if delivery is None:
        raise NotFound(f"there is no delivery {call.id[:200]!r}", code="delivery_not_found")
    return delivery


async def _shown(call: Call, delivery: Delivery, status_code: int = 200) -> Response:
    sinks = await _sinks(call, [delivery.subscription_id])
    view = delivery_view(delivery, sinks.get(delivery.subscription_id))
    attempts = [attempt_view(attempt) for attempt in delivery.attempts]
    return json_response({**view, "attempts": attempts}, status_code)
