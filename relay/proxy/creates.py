"""Creates: recorded before they are sent, sent once, and tracked before the caller gets the answer.

Steps: record the intent -> send once -> read the answer -> record the job and end the intent in one transaction ->
answer. An interruption at any step leaves the intent, which marks a create of unknown outcome (`unrecorded.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

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
from relay.core.trace_context import of_headers, with_context
from relay.errors import InvalidRequest, NoAnswer, NotSent, RequestError, StoreError
from relay.ids import new_id
from relay.polling.tracking import Tracking
from relay.proxy.spool import Spool
from relay.proxy.transport import MAX_ANSWER_BYTES, plain
from relay.proxy.types import MAX_ADOPTED, ForwardedRequest, ProxyResponse, name_of, texts
from relay.proxy.unrecorded import MadeJob, UnknownCreates, Unrecorded
from relay.sources.client import without_key
from relay.sources.mapping import Malformed, read_create, read_error, read_object

if TYPE_CHECKING:
    from relay.proxy.gateway import Gateway
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
        gateway: "Gateway",
        intents: "IntentStore",
        tracking: Tracking,
        unknown: UnknownCreates,
        *,
        adopt: Adopt | None,
        capture: Sequence[str] = (),
    ) -> None:
        self._gateway = gateway
        self._intents = intents
        self.tracking = tracking
        self._unknown = unknown
        self._adopt = adopt
        self.capture = capture
        """The parts of a recipient that are kept."""
        self.unrecorded = Unrecorded(self._record)

    async def create(
        self, request: ForwardedRequest, body: Spool, attached: Mapping[str, Any], resource: str = ""
    ) -> ProxyResponse:
        """Sends a create once and tracks the job of the resource that it makes. `attached`: fields of its intent. With
        tracing the upstream gets the context of this create's span, else the caller's headers unchanged."""
        tracing = self._gateway.tracing
        if tracing is None:
            return await self._create(request, body, attached, resource)
        source = {"relay.source": request.caller.source}
        with tracing.span("create", "server", of_headers(request.headers), source) as span:
            if span.context is not None:
                request = replace(request, headers=with_context(request.headers, span.context))
            response = await self._create(request, body, attached, resource)
            span.set("http.response.status_code", response.status)
            if response.status >= 500:
                span.failed(str(response.status))
            return response

    async def _create(
        self, request: ForwardedRequest, body: Spool, attached: Mapping[str, Any], resource: str
    ) -> ProxyResponse:
        caller, gateway = request.caller, self._gateway
        is_new = caller.account is None and caller.key is not None
        if is_new and self._adopt is not None and len(gateway.pollers) < MAX_ADOPTED:
            request = replace(request, caller=replace(caller, account=name_of(caller.key or "")))
        if request.caller.account is None:
            log.warning("untracked_create", path=request.path, request_id=request.request_id, hint="its key is unknown")
            return await gateway.forward(request, body)
        names = gateway.definitions[caller.source].resource_of(resource).request
        asked = read_create(names, body.whole, self.capture)
        now = gateway.clock()
        intent = Intent(
            id=new_id("int", now),
            source=caller.source,
            account=request.caller.account,
            resource=resource,
            path=request.path,
            body_digest=body.digest,
            idempotency_key=_text_of(request.headers, b"idempotency-key"),
            created_at=now,
            channel=asked.channel,
            connect_account_id=asked.connect_account_id,
            request=asked.document(),
            recipient=asked.recipient,
            **attached,
        )
        try:
            if intent.callback_url is not None and not is_new:
                # Now: a create that was sent is answered as the upstream did.
                await self.tracking.claim_host(intent.callback_url, request.by)
            await self._intents.begin(intent)
        except InvalidRequest as error:
            detail = f"Relay-Callback: {error.errors[0].detail}. Nothing was sent"
            return gateway.problem(request.caller, error.status, f"relay_{error.code}", detail, request.request_id)
        except StoreError as error:
            detail = f"{error}. Nothing was sent. Send it again later"
            return gateway.problem(request.caller, 503, "relay_database_unavailable", detail, request.request_id)
        request = replace(request, headers=readable_only(request.headers))
        try:
            async with asyncio.timeout(CREATE_SECONDS):
                answer = await gateway.send(request, body if body.whole is None else body.whole)
                content, is_whole = await gateway.unless_stopping(answer.read(MAX_ANSWER_BYTES))
        except NotSent as error:
            await self._settle(intent, None)
            return gateway.unreachable(request, error)
        except (NoAnswer, TimeoutError) as error:
            await self._settle(intent, "no_answer")
            timed_out = NoAnswer(f"no answer within {CREATE_SECONDS:g} s")
            return gateway.unreachable(request, error if isinstance(error, NoAnswer) else timed_out, intent)
        gateway.count_request(request.caller, answer)
        response = ProxyResponse.of(answer, content, complete=is_whole)
        if is_whole:
            added = await self._settle_answer(request, intent, asked.spacing_seconds, response)
            response.headers = [*response.headers, *((name.encode(), value.encode()) for name, value in added.items())]
        else:
            await self._settle(intent, "unreadable", answer.status)
        return response

    async def _settle_answer(
        self, request: ForwardedRequest, intent: Intent, spacing_seconds: float | None, answer: ProxyResponse
    ) -> dict[str, str]:
        """Records what the answer proves about the create. Returns headers for its caller."""
        definition, content = self._gateway.definitions[intent.source], answer.body or b""
        readable = plain(content, answer.headers, MAX_ANSWER_BYTES) or b""
        readable = without_key(readable, definition.secrets_of(request.caller.key or ""))
        code = read_error(definition, readable).code if answer.status >= 500 else ""
        fate = fate_of(answer.status, says_nothing_done=code in definition.error.meanings.unavailable)
        if fate == "refused":
            await self._settle(intent, None)
            return {}
        if fate == "unknown":
            await self._settle(intent, "server_error", answer.status)
            return {}
        resource, headers = definition.resource_of(intent.resource), texts(answer.headers)
        create, document = resource.create_at(unquote(intent.path), request.method), read_object(readable)
        answered = {} if isinstance(document, Malformed) else document
        location = None if create is None else resource.address_with_id(create, answered, headers)
        found = None
        if not isinstance(document, Malformed) or location is not None:
            found = self.tracking.read_answer(
                intent.source, answered, intent.resource, create=create, location=location
            )
        is_read = not content or not isinstance(document, Malformed) or document.reason == "not_an_object"
        if found is None and create is not None and create.optional and location is None and is_read:
            log.info("create_without_job", intent=intent.id, status_code=answer.status, path=intent.path)
            await self._settle(intent, None)
            return {}
        if found is None:
            log.warning("create_not_understood", intent=intent.id, status_code=answer.status, path=intent.path)
            await self._settle(intent, "unreadable", answer.status)
            return {}
        trace = of_headers(request.headers)
        job = TrackRequest.of_create(
            intent,
            found[0],
            seen=found[1],
            spacing_seconds=_spacing(spacing_seconds),
            intent=intent,
            caller=request.by,
            status_url=None if create is None else resource.address_of(create, answered, headers),
            trace=None if trace is None else trace.kept(),
        )
        return await self._track(MadeJob(intent, request.caller, job), len(content))

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
        if self._adopt is not None and caller.key is not None and place not in self._gateway.pollers:
            await self._adopt(request.source, caller.key)
        tracking = self.tracking.within(place) if caller.bound else self.tracking
        made_job = await tracking.register_made(request)
        if not (made_job.created or made_job.resumed or made_job.job.open):
            hint = "the upstream gave the id of a job that had ended: no events follow"
            log.warning("job_already_closed", job=request.external_id, source=request.source, hint=hint)
        return made_job.not_attached

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
