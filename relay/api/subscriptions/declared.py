"""`POST /v1/subscriptions/apply`: makes the subscriptions match a document.

All changes are planned first, so a mistake in one subscription changes none, and are then made in one transaction.
Subscriptions that do not differ are not touched, so applying the same document again does nothing. `relay apply` uses
the same functions on the database itself (`relay/cli/subscriptions/apply.py`).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import WRITES_SUBSCRIPTIONS
from relay.api.http.fields import FAILED, Body
from relay.api.http.idempotency import stored
from relay.api.http.operations import Answer, Call, Context, Operation, json_response, request_id_of
from relay.api.http.problems import MAX_ERRORS, did_you_mean
from relay.api.http.shown import Shown
from relay.api.http.validation import invalid, under, validate
from relay.api.subscriptions.checks import awaits_consent, read_declared, with_portal
from relay.api.subscriptions.models import (
    DeclaredSubscription,
    SubscriptionConfig,
    start_differs,
    start_seconds,
    subscription_view,
)
from relay.api.subscriptions.subscriptions import with_secret
from relay.core.access.audit import AuditRecord, Result
from relay.core.deliveries.credentials import SinkCredential
from relay.core.events.event import owner_of
from relay.core.jsontext import dumps
from relay.core.records import SubscriptionRoom
from relay.core.subscriptions.declared import (
    BY_ANYONE,
    MAX_DECLARED,
    Action,
    Change,
    changed_fields,
    current_secret,
    problem_of_id,
    qualified,
    same_credential,
)
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict, FieldError, InvalidRequest, RequestError
from relay.tasks import Turns
from subscribers.registry import kind_named

if TYPE_CHECKING:
    from relay.node.audit import AuditLog

OVERLAP_SECONDS = 86_400.0
"""Default lifetime of a replaced signing secret, in seconds."""
MAX_PLANS = 10
"""Maximum number of plans for one request: one that a change of a subscription has made out of date is made again."""
MAX_SHOWN_BYTES = 500
"""Maximum size of a value that a plan shows. Of a larger one only the name is shown."""
_NOT_SHOWN = ("sink", "protocolsettings.headers", "sinkcredential", "config.secret", "config.template", "declared")
"""Fields whose values a plan leaves out, because they may be secrets. The author of a document may not read stored
values."""
_ACTIONS = {"add": "subscriptions.create", "change": "subscriptions.replace", "remove": "subscriptions.remove"}


class SubscriptionsApply(Body):
    """The subscriptions that a document declares."""

    subscriptions: list[Any] = Field(
        max_length=MAX_DECLARED,
        json_schema_extra={
            "items": {
                "description": "As for `POST /v1/subscriptions`, with an `id`. Where requests are signed with its "
                "secret, `config.secret` is needed.",
                "anyOf": [{"$ref": "#/components/schemas/DeclaredSubscription"}, {}],
            }
        },
        examples=[
            [
                {
                    "id": "crm",
                    "sink": "https://receiver.example/hooks",
                    "types": [FAILED],
                    "config": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
                }
            ]
        ],
    )
    dry_run: bool = Field(default=False, description="Change nothing, and answer what would change.", examples=[True])
    prune: bool = Field(
        default=False,
        description="Remove what was applied before and is no longer declared. What `POST /v1/subscriptions` made is "
        "never removed. A token bound to an account removes only what such a token declared.",
        examples=[True],
    )
    cancel_pending: bool = Field(
        default=False,
        description="Let `prune` cancel pending deliveries. Without it, a removal that cancels some is refused with "
        "409 `pending_deliveries`, and nothing is changed.",
    )


class ValueChange(Shown):
    """A value before and after."""

    before: Any = Field(alias="from")
    to: Any


class SubscriptionChange(Shown):
    """The change of one subscription."""

    id: str = Field(examples=["crm"])
    action: Action = Field(examples=["change"])
    sink: str | None = Field(description="null: protocol PULL.", examples=["https://receiver.example/hooks"])
    fields: list[str] = Field(description="The names of the settings that change.", examples=[["types"]])
    values: dict[str, ValueChange] = Field(
        description="Of these, the values that are short and cannot be secret.",
        examples=[{"types": {"from": None, "to": [FAILED]}}],
    )
    note: str | None = Field(description="What to know about it.")
    pending: int = Field(description="The number of pending deliveries that a removal cancels, counted up to 10,000.")


class SubscriptionsApplied(Shown):
    """The changes that were made or, with `dry_run`, would be."""

    changes: list[SubscriptionChange]
    dry_run: bool = Field(examples=[True])
    added: int
    changed: int = Field(examples=[1])
    removed: int
    unchanged: int


operation = partial(Operation, tag="Subscriptions")


def _without_values(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {**answer, "changes": [{**one, "values": {}} for one in answer["changes"]]}


@operation(
    "POST /v1/subscriptions/apply",
    repeats=stored(_without_values),
    bound=True,
    audited="subscriptions.apply",
    scopes=WRITES_SUBSCRIPTIONS,
    body=SubscriptionsApply,
    also_bodies=(DeclaredSubscription,),
    answers={200: Answer("What was changed or, with `dry_run`, would be.", SubscriptionsApplied)},
    problems={
        409: "The token has made too many subscriptions, filters would make too many distinct comparisons, one has too "
        "many valid secrets, other requests change them at the same time, or a removal would cancel pending "
        "deliveries.",
        429: "Too many batches are in progress.",
    },
)
async def apply_subscriptions(call: Call) -> Response:
    """Make the subscriptions match a document.

    All of them are checked first; all changes are one transaction. Those that do not differ are not touched, so the
    same request again changes nothing. State, start and pending deliveries of a changed one are kept, as by `PUT`.
    Another `config.secret` is a rotation: the old one signs for another day.
    """
    body = validate(SubscriptionsApply, call.document)
    request_id, audit = request_id_of(call.request.scope, call.dependencies.clock), call.dependencies.audit
    identity = call.identity
    assert identity is not None
    with call.dependencies.admission.batches.held(call.caller):
        changes = await apply_declared(
            call.context,
            body,
            room=SubscriptionRoom(call.caller, fewer_than=call.dependencies.settings.max_subscriptions_of_caller),
            record=lambda action, target: audit.request(action, identity, target=target, request_id=request_id),
        )
    applied = applied_view(changes, call.context, call.shown_sink, dry_run=body.dry_run)
    call.note(**{name: applied[name] for name in ("dry_run", "added", "changed", "removed")})
    if not body.dry_run and applied["unchanged"] < len(changes):
        call.dependencies.signals.deliveries_due()
    return json_response(applied)


async def apply_declared(
    context: Context,
    body: SubscriptionsApply,
    *,
    room: SubscriptionRoom | None,
    record: Callable[[str, str], AuditRecord],
) -> Sequence[Change]:
    """Plans and, without `dry_run`, changes the subscriptions. Returns the plan, with those that do not change.

    room    for how many more there is; None: any number
    record  the entry of the audit for an action on a subscription
    """
    dependencies = context.dependencies
    for attempt in range(1, MAX_PLANS + 1):
        now = dependencies.clock()
        changes = await planned(context, body, now)
        effective = [one for one in changes if one.action != "unchanged"]
        if body.dry_run or not effective:
            return changes
        begun = await dependencies.audit.begin(*(record(_ACTIONS[one.action], one.id) for one in effective))
        try:
            await dependencies.store.subscriptions.apply(
                effective,
                now,
                secrets_expire_at=now + OVERLAP_SECONDS,
                room=room,
                awaits_consent=partial(awaits_consent, context=context),
                cancel_pending=body.cancel_pending,
            )
        except Exception as error:
            await _end_all(
                dependencies.audit, begun, effective, "refused" if isinstance(error, RequestError) else "failed"
            )
            if not isinstance(error, Conflict) or error.code != "subscriptions_changed" or attempt == MAX_PLANS:
                raise
        else:
            await _end_all(dependencies.audit, begun, effective, "ok")
            return changes
    raise AssertionError  # the last attempt returned or raised


async def _end_all(audit: "AuditLog", begun: Sequence[AuditRecord], changes: Sequence[Change], result: Result) -> None:
    notes = [{"by": "subscriptions.apply", "fields": list(one.fields)} for one in changes]
    await asyncio.gather(*(audit.end(one, result=result, notes=note) for one, note in zip(begun, notes, strict=True)))


async def planned(context: Context, body: SubscriptionsApply, now: float) -> list[Change]:
    """The changes that applying would make: one for each declared subscription, in order, then the removals. Raises
    InvalidRequest with the mistakes of all of them."""
    subscriptions = context.dependencies.store.subscriptions
    stored = {one.id: one for one in await subscriptions.all()}
    hidden = await _callbacks(context, body.subscriptions, stored)
    reader = _Reader(context=context, own=context.settings.owner, stored=stored, hidden=hidden, now=now)
    changes: list[Change] = []
    refused: list[InvalidRequest] = []
    turns = Turns()
    for index, document in enumerate(body.subscriptions):
        try:
            with under("subscriptions", index):
                changes.append(reader.change(document))
        except InvalidRequest as error:
            refused.append(error)
            if sum(len(one.errors) for one in refused) >= MAX_ERRORS:
                break
        if turns.over:
            await turns.next()
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise invalid(*[error for one in refused for error in one.errors][:MAX_ERRORS])
    if body.prune:
        changes += [replace(one, pending=await subscriptions.pending(one.id)) for one in reader.removed()]
    return changes


async def _callbacks(context: Context, documents: Sequence[Any], stored: Mapping[str, Subscription]) -> frozenset[str]:
    """The declared ids that belong to callbacks."""
    given = {one["id"] for one in documents if isinstance(one, dict) and isinstance(one.get("id"), str)}
    unknown = [id for id in given if id not in stored and problem_of_id(id, None) is None]
    return (
        frozenset(one.id for one in await context.dependencies.store.subscriptions.some(unknown) if one.callback)
        if unknown
        else frozenset()
    )


@dataclass(slots=True)
class _Reader:
    """Reads declared subscriptions and compares them with the stored ones.

    own     the account that the caller is bound to
    hidden  ids that belong to callbacks
    taken   ids of those read so far
    """

    context: Context
    own: str | None
    stored: Mapping[str, Subscription]
    hidden: frozenset[str]
    now: float
    taken: set[str] = field(default_factory=set)

    @property
    def _declarer(self) -> str:
        return self.own or BY_ANYONE

    def change(self, document: Any) -> Change:
        """The change that one declared subscription needs. Raises InvalidRequest."""
        body = validate(DeclaredSubscription, document)
        owner = self._owner(body)
        id = self._id(body, owner)
        config = body.config or SubscriptionConfig()
        before = self.stored.get(id)
        errors = [] if before is None else list(_fixed(body, config, owner, before))
        if errors:
            raise invalid(*errors)
        start_at = start_seconds(config.start)
        empty = Subscription(id=id, sink=body.sink or "", created_at=self.now, owner=owner, start_at=start_at)
        after = replace(read_declared(body, self.context, before or empty), declared=self._declarer)
        if config.secret is None and after.signature != "v1a" and kind_named(after.kind).signed:
            detail = "a declared subscription needs its signing secret, for example ${file:/run/secrets/NAME}"
            raise invalid(FieldError(pointer="/config/secret", code="missing", detail=detail))
        after = replace(after, credential=_credential(after, before))
        if before is None:
            return Change(id=id, action="add", after=with_secret(after, config.secret, self.context, self.now))
        after = with_portal(after, before)
        fields = changed_fields(before, after)
        secret = config.secret if config.secret != current_secret(before.secrets) else None
        if secret is not None:
            fields = (*fields, "config.secret")
        action: Action = "change" if fields else "unchanged"
        return Change(id=id, action=action, before=before, after=after, fields=fields, new_secret=secret)

    def removed(self) -> Iterator[Change]:
        """The removal of each subscription that was declared before and is not any more."""
        for one in self.stored.values():
            if one.declared == self._declarer and one.id not in self.taken:
                yield Change(id=one.id, action="remove", before=one)

    def _owner(self, body: DeclaredSubscription) -> str | None:
        if self.own is not None:
            if body.owner not in (None, self.own):
                detail = "this token is bound to an account, which its subscriptions belong to: leave it out"
                raise invalid(FieldError(pointer="/owner", code="not_replaceable", detail=detail))
            return self.own
        if body.owner is None:
            return None
        accounts = self.context.settings.accounts
        known = [owner_of(source, account) for source, names in accounts.items() for account in names]
        if body.owner not in known:
            detail = f"no account {body.owner[:100]!r} is configured{did_you_mean(body.owner, known)}"
            raise invalid(FieldError(pointer="/owner", code="unknown_account", detail=detail))
        return body.owner

    def _id(self, body: DeclaredSubscription, owner: str | None) -> str:
        """Its id. One that a bound token declares can belong to its account only: the token must not learn which ids
        other accounts use."""
        problem = problem_of_id(body.id, owner)
        id = body.id if self.own is None or body.id in self.stored else qualified(body.id, owner)
        code = "invalid_id"
        if problem is None and id in self.taken:
            problem, code = f"another one in this document has the id {id}: each needs its own", "duplicate_id"
        if problem is None and id in self.hidden:
            problem, code = f"{id} was created by a callback_url and cannot be declared: choose another id", "id_taken"
        if problem is not None:
            raise invalid(FieldError(pointer="/id", code=code, detail=problem))
        self.taken.add(id)
        return id


def _fixed(
    body: DeclaredSubscription, config: SubscriptionConfig, owner: str | None, before: Subscription
) -> Iterator[FieldError]:
    """An error for each difference in a field that cannot change."""
    else_ = "declare another id instead"
    if "start" in config.model_fields_set and (why := start_differs(config.start, before.start_at)) is not None:
        yield FieldError(pointer="/config/start", code="not_replaceable", detail=f"{why}: {else_}")
    if owner != before.owner:
        is_ = "it is not limited to an account" if before.owner is None else f"it is {before.owner!r}"
        yield FieldError(pointer="/owner", code="not_replaceable", detail=f"it cannot be changed; {is_}: {else_}")


def _credential(after: Subscription, before: Subscription | None) -> SinkCredential | None:
    """The declared credential, with an id that the same declaration always gets: the relay renews tokens, so the stored
    fields are not always the given ones. A stored credential that is the same is kept."""
    given = after.credential
    if given is None:
        return None
    named = dumps([after.id, given.origin, sorted(given.fields.items())])
    given = replace(given, id=f"crd_{hashlib.sha256(named).hexdigest()[:32]}")
    known = None if before is None else before.credential
    return known if same_credential(given, known) else given


# --- views


def applied_view(
    changes: Sequence[Change], context: Context, shown_sink: Callable[[str, str], str], *, dry_run: bool
) -> dict[str, Any]:
    """A plan as the answer."""
    count = Counter(one.action for one in changes)
    return {
        "changes": [_change_view(one, context, shown_sink) for one in changes],
        "dry_run": dry_run,
        "added": count["add"],
        "changed": count["change"],
        "removed": count["remove"],
        "unchanged": count["unchanged"],
    }


def _change_view(change: Change, context: Context, shown_sink: Callable[[str, str], str]) -> dict[str, Any]:
    known = change.after or change.before
    assert known is not None
    values: dict[str, dict[str, Any]] = {}
    if change.before is not None and change.after is not None and change.fields:
        one, other = (subscription_view(each, shown_sink, context.settings) for each in (change.before, change.after))
        for name in change.fields:
            found = {"from": _value_at(one, name), "to": _value_at(other, name)}
            if name not in _NOT_SHOWN and len(dumps(found)) <= MAX_SHOWN_BYTES:
                values[name] = found
    note = None
    if "declared" in change.fields and change.before is not None:
        note = "it was made by hand, and is declared from now on"
        if change.before.declared is not None:
            note = "it was declared by another token, and is declared here from now on"
    return SubscriptionChange.of(change, sink=shown_sink(known.kind, known.sink) or None, values=values, note=note)


def _value_at(view: Any, name: str) -> Any:
    with suppress(KeyError, TypeError):
        for part in name.split("."):
            view = view[part]
        return view
    return None
