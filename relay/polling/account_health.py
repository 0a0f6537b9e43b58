"""State of an account's polling: ok, down or unauthorized. Each change is recorded together with its event."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from relay.core import relay_events
from relay.core.events.event import Event, owner_of, relay_event
from relay.core.jobs.job import POLL, Problem
from relay.core.records import AccountState
from relay.errors import StoreError
from relay.ids import new_id
from relay.polling.agenda import Agenda
from relay.sources.client import problem_of

if TYPE_CHECKING:
    from relay.polling.account import PolledAccount
    from relay.sources.client import PollResult

DOWN_FAILURES = 5
DOWN_SECONDS = 60.0
FORBIDDEN_JOBS = 5

log = structlog.get_logger("relay.polling")


def fingerprint(key: str | None) -> str | None:
    """Identifies an API key without revealing it: 64 bits of its digest."""
    return None if key is None else hashlib.sha256(b"relay api key " + key.encode(errors="replace")).hexdigest()[:16]


class AccountHealth:
    """Derives the account's state from poll results and records each change with an event."""

    def __init__(self, account: "PolledAccount", agenda: Agenda) -> None:
        self._account = account
        self._agenda = agenda
        self.key = account.settings.read_key()
        """The API key to poll with."""
        self.state = AccountState(source=account.settings.source, name=account.settings.account)
        self.is_proven = False
        """True once the upstream has answered a request with this key since this node polls the account."""
        self._tries_jobs = False
        """True after a probe of a refused key that neither refused nor proved it: the next polls do."""
        self._silent: AccountState | None = None
        """The state to show until then, if the upstream does not answer."""
        self._failures = 0
        self._failing_since: float | None = None
        self._forbidden: set[str] = set()

    def reset(self) -> None:
        """Forgets the state: another node polls the account now."""
        self.state = AccountState(source=self._account.settings.source, name=self._account.settings.account)
        self._forget_failures()
        self.is_proven, self._silent, self._tries_jobs = False, None, False

    @property
    def key_refused(self) -> bool:
        """True if the upstream refuses the current key. A refusal of an earlier key does not count."""
        if self.state.state != "unauthorized":
            return False
        refused = (self.state.problem or {}).get("key")
        return refused is None or refused == fingerprint(self.key)

    @property
    def paused(self) -> bool:
        """True if the key is missing or refused, unless polls are to find out whether it still is."""
        return self.key is None or (self.key_refused and not self._tries_jobs)

    def configure(self) -> None:
        """Reads the key of reloaded settings."""
        before, self.key = self.key, self._account.settings.read_key()
        if self.key != before:
            self.is_proven, self._silent = False, None

    async def probe(self) -> bool:
        """While the key is refused: reads it again and tries one cheap call. Returns True if polling continues.

        A refusal of an earlier key does not pause polling; without any job to poll, the call shows that it is over.
        An answer to something else than the key, such as 404, proves nothing: polls go on, and the first one decides.
        """
        if not self.paused and self.state.state != "unauthorized":
            return True
        self.key = self._account.settings.read_key()
        if self.key is None:
            return False
        if not self.key_refused:
            self._account.reschedule()
            if self.state.state != "unauthorized":
                return True
        result = await self._account.upstream.probe(self.key)
        log.info("probe", **self._account.place, result=result.kind, detail=result.detail)
        now = self._account.clock()
        if result.kind == "observed":
            await self.recover(now)
            return True
        if result.kind == "unauthorized":
            await self.unauthorized(problem_of(result, now), now)
        elif result.kind not in ("unavailable", "rate_limited") and not self._tries_jobs:
            self._tries_jobs = True
            self._account.reschedule()
        return not self.paused

    @property
    def shown_state(self) -> AccountState:
        """The state to show: a refusal of an earlier key counts as ok, and an upstream that has answered nothing yet as
        down."""
        if self._silent is not None and self.state.state == "ok":
            return self._silent
        if self.state.state == "unauthorized" and not self.key_refused:
            return AccountState(source=self.state.source, name=self.state.name)
        return self.state

    async def key_tried(self, result: "PollResult", now: float) -> None:
        """Handles the result of a request that tries the key before a job needs a poll, like the result of a poll. One
        difference: an upstream that does not answer is shown as down at once. It is recorded as down as after polls."""
        if result.kind == "unauthorized":
            await self.unauthorized(problem_of(result, now), now)
        elif result.kind == "observed":
            await self.succeeded(now)
        elif result.kind == "unavailable":
            problem = problem_of(result, now)
            if self._silent is None:
                log.warning("upstream_does_not_answer", **self._account.place, problem=problem["message"])
                since = now
            else:
                since = self._silent.since or now
            self._silent = replace(self.state, state="down", since=since, problem=problem)
            await self.failed(problem, now)
        else:  # an answer: what it says is about the listing
            self.is_proven, self._silent = True, None

    async def succeeded(self, now: float) -> None:
        """A poll was answered properly."""
        self._forget_failures()
        self.is_proven, self._silent = True, None
        if self.state.state != "ok":
            await self.recover(now)

    def _forget_failures(self) -> None:
        self._failures, self._failing_since = 0, None
        self._forbidden.clear()

    async def failed(self, problem: Mapping[str, Any], now: float) -> None:
        """A poll failed for a reason unrelated to its job. DOWN_FAILURES in a row over DOWN_SECONDS mean down."""
        self._failures += 1
        self._failing_since = self._failing_since or now
        if self.state.state == "ok" and self._failures >= DOWN_FAILURES and now - self._failing_since >= DOWN_SECONDS:
            await self._change("down", problem, self._failing_since)

    async def forbidden(self, job_uid: str, problem: Mapping[str, Any], now: float) -> None:
        """The key may not read this job. FORBIDDEN_JOBS jobs without a success between them count against the key."""
        self._forbidden.add(job_uid)
        if len(self._forbidden) >= FORBIDDEN_JOBS:
            await self.unauthorized(problem, now)

    async def unauthorized(self, problem: Mapping[str, Any], now: float) -> None:
        """The upstream refuses the key. Recorded once per key."""
        self.is_proven, self._silent, self._tries_jobs = True, None, False
        if not self.key_refused:
            await self._change("unauthorized", {**problem, "key": fingerprint(self.key)}, now)
            self._account.reschedule()

    async def recover(self, now: float) -> None:
        """Records that polling works again."""
        self._forget_failures()
        self._tries_jobs = False
        await self._change("ok", None, now)
        self._account.reschedule()

    async def _change(self, state: str, problem: Mapping[str, Any] | None, since: float) -> None:
        """Sets the state before the write, so that concurrent polls do not record it too.

        If the write fails the state is reverted, and the next poll records it: no event is lost.
        """
        before = self.state
        if problem is None:  # the event is about the problem that is over
            event = self._event("relay.source.recovered", before.problem or {}, before.since or since)
        else:
            event, problem = self._event(f"relay.source.{state}", problem, since), dict(problem)
        self.state = replace(before, state=state, since=since, problem=problem)
        try:
            await self._account.store.accounts.set(self.state, event)
        except StoreError:
            self.state = before
            raise
        log.warning(event.type, **self._account.place, event_id=event.id)
        self._account.metrics.count_event(event)
        self._account.signals.event_recorded()
        self._account.signals.deliveries_due()

    def _event(self, type: str, problem: Mapping[str, Any], since: float) -> Event:
        now, settings = self._account.clock(), self._account.settings
        account, source = self.state.name, self.state.source
        upstream = source[:1].upper() + source[1:]
        reason = {
            "relay.source.unauthorized": f"{upstream} refuses the API key of account {account}: polling waits for one "
            "that works",
            "relay.source.down": f"Polls of account {account} fail: they go on, less often",
            "relay.source.recovered": f"Polls of account {account} work again",
        }[type]
        hint = None
        if type != "relay.source.recovered":
            hint = settings.definition.hint_for(Problem(code=str(problem.get("code")), message=""), POLL)
        data = relay_events.source_trouble_data(
            source=source,
            account=account,
            since=since,
            reason=reason,
            code=problem.get("code"),
            message=problem.get("message"),
            request_id=problem.get("request_id"),
            open_jobs=self._agenda.planner.stats(now).open_jobs,
            hint=hint,
        )
        dataschema = relay_events.dataschema_for(type, settings.dataschema_base)
        subject = owner_of(source, account)
        return relay_event(new_id("evt", now), type, now, data, dataschema=dataschema, subject=subject, owner=subject)
