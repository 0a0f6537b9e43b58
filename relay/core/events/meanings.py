"""The meaning of each event type in a sentence or two, for the AsyncAPI description and docs/reference/events.md."""

from collections.abc import Mapping

from relay.core.events.event import account_event_kind

_MEANINGS: Mapping[str, str] = {
    "queued": "the job is queued",
    "scheduled": "the job waits for its scheduled time",
    "running": "an attempt has started",
    "succeeded": (
        "the channel **accepted** the job, which does not prove that a person received it. `resultstatus` is the "
        "upstream's `result.status`: `accepted`, or `skipped` if there was nothing to do"
    ),
    "completed": "the webset has succeeded",
    "failed": "the job has failed; `data.hint` says what that means and how to fix it",
    "cancelled": "the job was cancelled",
    "retrying": "an attempt failed and another one follows",
    "overdue": "the job has not ended by its deadline. Sent once. The relay keeps polling, less often",
    "not_found": "the upstream answered 404 to five polls over at least two minutes. The last event of the job",
    "status_unknown": "the upstream returned a status that the relay does not know. The relay keeps polling",
    "progress": (
        "an open job has moved on: at once for another `stage`, else at most once a minute. `data.progress` has "
        "`percent`, `done`, `total` and `stage`"
    ),
    "account.needs_reconnect": "the account must be connected again before it can send",
    "account.cannot_send": "the account is connected and cannot send",
    "account.recovered": "the account can send again",
    "account.added": "the upstream lists a new account",
    "account.removed": "the upstream does not list the account any more",
    "relay.subscription.disabled": (
        "a sink answered 410, or only failed for `delivery.disable_after_seconds`. Pending deliveries wait"
    ),
    "relay.subscription.recovered": "a probe succeeded: the subscription is enabled again, and its backlog is sent",
    "relay.source.unauthorized": "the upstream rejects the key of an account. Its polling stops until there is another",
    "relay.source.down": "five polls in a row failed over at least 60 s",
    "relay.source.recovered": "polls succeed again",
    "relay.credits.low": "an account has fewer credits (`available`) than `sources.NAME.credits_low` (`threshold`)",
    "relay.delivery.expired": "a delivery is dead: it is kept, and can be sent again",
    "relay.delivery.uncertain": (
        "a record in a CRM may or may not have been written. `data` has the `record` (such as `note`), its `target` "
        "(ids of the CRM, never an address) and the `fix` in words"
    ),
    "relay.create.unknown": "it is unknown whether a create was carried out. Sent once per create",
    "relay.test": "a sample for a sink; not stored",
    "relay.group.finished": (
        "every job of a group has ended. `subject` and the attribute `group` are its name. `data` has the counts by "
        "state, the failures by error code, and a `summary`. Sent once a round"
    ),
    "relay.incident.opened": (
        "several failures have one cause. `data` says `what` happened, how to `fix` it and `who` can, and whether to "
        "send again (`repeat`). It counts those that have `failed`, and the open jobs that are `likely` to"
    ),
    "relay.incident.grew": "10, 100 or 1,000 have failed",
    "relay.incident.closed": (
        "the incident is over. `data.closed_because`: `account_recovered`, `succeeded`, `quiet`, "
        "`subscription_recovered`, `subscription_resumed` or `subscription_removed`"
    ),
}


def meaning_of(type: str) -> str:
    """The meaning of an event type. Markdown. Raises KeyError for a type that is not the relay's."""
    kind = account_event_kind(type)
    known = type if type.startswith("relay.") else type.rpartition(".")[2]
    return _MEANINGS[known if kind is None else f"account.{kind}"]
