"""Creates: recorded before they are sent, sent once, and tracked before the caller gets the answer.

Steps: record the intent -> send once -> read the answer -> record the job and end the intent in one transaction ->
answer. An interruption at any step leaves the intent, which marks a create of unknown outcome (`unrecorded.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.core.access.forwarding import (
    NOT_ATTACHED_HEADER,
    NOT_RECORDED_HEADER,
    Header,
    fate_of,
    not_attached,
    not_recorded,
    readable_only,
)
from relay.core.planner.planner import DEFAULT_SPACING_SECONDS
from relay.core.polling.tracking import TrackRequest
from relay.core.records import Intent
from relay.errors import InvalidRequest, NoAnswer, NotSent, RequestError, StoreError
from relay.ids import new_id
from relay.polling.tracking import Tracking
from relay.proxy.forwarding import Forwarding
from relay.proxy.transport import MAX_ANSWER_BYTES, UpstreamResponse, plain
from relay.proxy.types import MAX_ADOPTED, Caller, CreateBody, ForwardedRequest, ProxyResponse, TrackingOptions, name_of
from relay.proxy.unrecorded import MadeJob, UnknownCreates, Unrecorded
from relay.sources.mapping import Malformed, read_create, read_error, read_object

if TYPE_CHECKING:
    from relay.store.jobs.intents import IntentStore

CREATE_SECONDS = 330.0
"""Maximum wait for the answer to a create."""
MOST_SPACING_SECONDS = 86_400.0
MAX_KEPT_ANSWER_BYTES = 65_536
"""Of a larger answer an unrecorded job keeps the id alone."""

Adopt = Callable[[str, str], Awaitable[None]]
"""Adopts an account: (source, API key)."""

log = structlog.get_logger("relay.proxy")


class Creates:
    """Sends creates. `adopt` makes an account of an unknown key; None if `proxy.adopt_unknown_keys` is off."""

    def __init__(
        self,
        forwarding: Forwarding,
        *,
        intents: "IntentStore",
        tracking: Tracking,
        adopt: Adopt | None,
        unknown: UnknownCreates,
        capture: Sequence[str] = (),
    ) -> None:
        self._forwarding = forwarding
        self._intents = intents
        self._tracking = tracking
        self._adopt = adopt
        self._unknown = unknown
        self._capture = capture
        self.unrecorded = Unrecorded(self._record)

    def configure(self, capture: Sequence[str]) -> None:
        """Keeps these parts of a recipient from now on."""
        self._capture = capture

    async def create(self, request: ForwardedRequest, body: CreateBody, options: TrackingOptions) -> ProxyResponse:
        """Sends a create once and tracks the job it makes."""
        caller = request.caller
        may_adopt = self._adopt is not None and len(self._forwarding.pollers) < MAX_ADOPTED
        if caller.account is None and caller.key and may_adopt:
            account = name_of(caller.key)
            request = replace(request, caller=replace(caller, account=account))
            options = replace(options, caller=f"{caller.source}/{account}")  # all unknown keys must not share one limit
        if request.caller.account is None:
            log.warning("untracked_create", path=request.path, request_id=request.request_id, hint="its key is unknown")
            return await self._forwarding.forward(request, body.parts)
        now = self._forwarding.clock()
        asked = read_create(self._forwarding.definitions[request.caller.source], body.whole, self._capture)
        intent = Intent(
            id=new_id("int", now),
            source=request.caller.source,
            account=request.caller.account,
            path=request.path,
            body_digest=body.digest,
            idempotency_key=_text_of(request.headers, b"idempotency-key"),
            created_at=now,
            channel=asked.channel,
            connect_account_id=asked.connect_account_id,
            request=asked.document(),
            metadata=options.metadata,
            callback_url=options.callback_url,
            callback_types=options.callback_types,
            group=options.group,
            group_size=options.group_size,
            recipient=asked.recipient,
        )
        try:
            if options.callback_url is not None and options.caller is not None and caller.account is not None:
                # Now: a create that was sent is answered as the upstream did.
                await self._tracking.claim_host(options.callback_url, options.caller)
            await self._intents.begin(intent)
        except InvalidRequest as error:
            detail = f"Relay-Callback: {error.errors[0].detail}. Nothing was sent"
            return self._forwarding.problem(
                request.caller, error.status, f"relay_{error.code}", detail, request.request_id
            )
        except StoreError as error:
            return self._forwarding.problem(
                request.caller,
                503,
                "relay_database_unavailable",
                f"{error}. Nothing was sent. Send it again later",
                request.request_id,
            )
        request = replace(request, headers=readable_only(request.headers))
        try:
            async with asyncio.timeout(CREATE_SECONDS):
                answer = await self._forwarding.send(request, body.parts if body.whole is None else body.whole)
                content, is_whole = await self._forwarding.unless_stopping(answer.read(MAX_ANSWER_BYTES))
        except NotSent as error:
            await self._settle(intent, None)
            return self._forwarding.unreachable(request, error)
        except (NoAnswer, TimeoutError) as error:
            await self._settle(intent, "no_answer")
            timed_out = NoAnswer(f"no answer within {CREATE_SECONDS:g} s")
            return self._forwarding.unreachable(request, error if isinstance(error, NoAnswer) else timed_out, intent)
        self._forwarding.count_request(request.caller, answer)
        if not is_whole:
            await self._settle(intent, "unreadable", answer.status)
            return ProxyResponse.of(answer, content, complete=False)
        response = ProxyResponse.of(answer, content, complete=True)
        added = await self._settle_answer(
            intent, request.caller, options.caller, asked.spacing_seconds, answer, content
        )
        response.headers = [*response.headers, *((name.encode(), value.encode()) for name, value in added.items())]
        return response

    async def _settle_answer(
        self,
        intent: Intent,
        caller: Caller,
        named: str | None,
        spacing_seconds: float | None,
        answer: UpstreamResponse,
        content: bytes,
    ) -> dict[str, str]:
        """Records what the answer proves about the create. Returns headers for its caller."""
        definition = self._forwarding.definitions[intent.source]
        readable = plain(content, answer.headers, MAX_ANSWER_BYTES) or b""
        code = read_error(definition, readable).code if answer.status >= 500 else ""
        fate = fate_of(answer.status, says_nothing_done=code in definition.codes.unavailable)
        if fate == "refused":
            await self._settle(intent, None)
        elif fate == "unknown":
            await self._settle(intent, "server_error", answer.status)
        else:
            document = read_object(readable)
            found = None if isinstance(document, Malformed) else self._tracking.read_answer(intent.source, document)
            if found is None:
                log.warning("create_not_understood", intent=intent.id, status_code=answer.status, path=intent.path)
                await self._settle(intent, "unreadable", answer.status)
                return {}
            spacing = _spacing(spacing_seconds)
            job = TrackRequest.of_create(
                intent, found[0], seen=found[1], spacing_seconds=spacing, intent=intent, caller=named
            )
            return await self._track(MadeJob(intent, caller, job), len(content))
        return {}

    async def _track(self, made: MadeJob, answer_bytes: int) -> dict[str, str]:
        """Records the job, or keeps it and records it later if nothing can be written. Returns headers for the caller.

        Raises nothing: the create was carried out, and a caller that gets an error might send it again.
        """
        try:
            missing = await self._record(made)
        except RequestError as error:  # what answered is no job that can be polled
            log.error("job_not_tracked", job=made.request.external_id, intent=made.intent.id, error=str(error))
            await self._settle(made.intent, "unreadable")
        except Exception as error:
            if answer_bytes > MAX_KEPT_ANSWER_BYTES:
                made = made._replace(request=made.request._replace(seen=None))
            self.unrecorded.keep(made, error)
        else:
            return {NOT_ATTACHED_HEADER: not_attached(missing)} if missing else {}
        return {NOT_RECORDED_HEADER: not_recorded(made.request.external_id)}

    async def _record(self, made: MadeJob) -> Sequence[tuple[str, str]]:
        """Tracks the job and ends its intent, in one transaction. Returns what is not attached, and why. See
        `Tracking.register_made` for what it raises."""
        request, caller = made.request, made.caller
        place = (request.source, request.account)
        if self._adopt is not None and caller.key is not None and place not in self._forwarding.pollers:
            await self._adopt(request.source, caller.key)
        tracking = self._tracking.within(place) if caller.bound else self._tracking
        return (await tracking.register_made(request)).not_attached

    async def _settle(self, intent: Intent, reason: str | None, status_code: int | None = None) -> None:
        """Ends the intent, or with a `reason` marks its outcome unknown.

        If the database refuses, the intent stays in flight and becomes `cut_off` at the next start.
        """
        try:
            if reason is None:
                await self._intents.end(intent.id)
            else:
                await self._intents.unknown(intent.id, reason, status_code)
                await self._unknown.announce()
        except StoreError as error:
            log.error("intent_not_settled", intent=intent.id, reason=reason, error=str(error))
        if reason is not None:
            log.warning(
                "create_outcome_unknown",
                intent=intent.id,
                source=intent.source,
                account=intent.account,
                path=intent.path,
                reason=reason,
                status_code=status_code,
            )


def _spacing(asked: float | None) -> float | None:
    """Minimum seconds to its predecessor in the lane; None if the create does not set it."""
    return None if asked is None else min(max(asked, DEFAULT_SPACING_SECONDS), MOST_SPACING_SECONDS)


def _text_of(headers: Sequence[Header], name: bytes) -> str | None:
    return next((value.decode("latin-1") for one, value in headers if one == name), None)
