"""The proxy without its HTTP: whom a request acts for, and how it is forwarded: once, counted in the account's budget.

`reads.py` and `creates.py` answer job reads and creates.
"""

import asyncio
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote

import structlog

from relay.api.access.callers import Access
from relay.clock import Clock, http_date
from relay.core.access.forwarding import SAFE_METHODS, Header, KeyPlace, api_key_of, without_keys, without_parameter
from relay.core.events.event import Event
from relay.core.jobs.job import JobKey
from relay.core.records import Intent
from relay.errors import NoAnswer, NotSent, RelayError
from relay.metrics import Metrics
from relay.polling.poller import Poller
from relay.polling.tracking import Tracking
from relay.proxy.creates import Adopt, Creates
from relay.proxy.reads import Reads
from relay.proxy.transport import UpstreamResponse, UpstreamTransport
from relay.proxy.types import Cache, Caller, ForwardedRequest, ProxyResponse, QueriedRead, texts
from relay.proxy.unrecorded import UnknownCreates
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.sources.definition import SourceDefinition
from relay.sources.pointers import Pointer
from relay.sources.tokens import NoAccessToken
from relay.store.store import Store
from relay.tracing import Tracing

JSON_TYPE = (b"content-type", b"application/json")
BEARER = KeyPlace(header=b"authorization", before="Bearer ")
UNAUTHORIZED = 401
MOUNT = b"/sources/"
"""Below it are the paths of each source, by its name."""

_SECONDS = re.compile(r"[0-9]{1,9}")

Value = TypeVar("Value")

log = structlog.get_logger("relay.proxy")


class Gateway:
    """The proxy of one node."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Mapping[tuple[str, str], Poller],
        definitions: Mapping[str, SourceDefinition],
        transports: Mapping[str, UpstreamTransport],
        clients: Mapping[str, UpstreamClient],
        tracking: Tracking,
        access: Access,
        signals: Signals,
        metrics: Metrics,
        stopping: Callable[[], bool],
        clock: Clock,
        recorded: Callable[[Event], None],
        dataschema_base: str,
        adopt: Adopt | None = None,
        capture: Sequence[str] = (),
        tracing: Tracing | None = None,
    ) -> None:
        """`definitions`, `transports` and `clients` by source; `stopping` is true once the node shuts down; `adopt`
        makes an account of an unknown key, None if adoption is off; `recorded` is called with each event recorded
        here. `capture`: the parts of recipients that creates keep. `tracing`: makes spans of creates."""
        self.pollers = pollers
        self.definitions = definitions
        self.access = access
        self.stopping = stopping
        self.clock = clock
        self.adopts_keys = adopt is not None
        self.tracing = tracing
        self._transports = transports
        self._counter = lru_cache(metrics.passed.labels)
        self._callers: dict[tuple[str, str], Caller] = {}  # str hashes are keyed: lookup time reveals no key
        self._mounts = {name: (name, *definition.passed) for name, definition in definitions.items()}
        prefixes = {prefix for definition in definitions.values() for prefix in definition.passed}
        self._key_places = {
            mount: definitions[name].credential.place
            for name, mounts in reversed(self._mounts.items())
            for mount in mounts
            if definitions[name].credential.place != BEARER
        }
        self._addressed = {
            name: [
                (resource, [(*resource.item, *place) for place in resource.addresses])
                for resource in definition.resources.values()
                if resource.addresses is not None
            ]
            for name, definition in definitions.items()
        }
        self._at_root = tuple((prefix.encode(), prefix) for prefix in sorted(prefixes, key=len, reverse=True))
        self._clients = clients
        self.reads = Reads(self, jobs=store.jobs, clients=clients, signals=signals)
        self.unknown = UnknownCreates(store.intents, clock=clock, dataschema_base=dataschema_base, recorded=recorded)
        self.creates = Creates(self, store.intents, tracking, self.unknown, adopt=adopt, capture=capture)

    # --- the caller

    def mount_of(self, raw_path: bytes) -> tuple[str, bytes]:
        """The mount that a path is below, and the path at the upstream. A mount is the name of a source; or a prefix of
        the root, which definitions serve there; or "" for any other path."""
        if raw_path.startswith(MOUNT):
            name, slash, rest = raw_path[len(MOUNT) :].partition(b"/")
            if slash and (mount := name.decode("latin-1")) in self.definitions:
                return mount, slash + rest
        for prefix, mount in self._at_root:
            if raw_path.startswith(prefix):
                return mount, raw_path
        return "", raw_path

    def key_of(self, headers: Sequence[Header], query: str, mount: str) -> str | None:
        """The API key of a request, or a relay token in its place: where the upstream has it, else where clients
        usually send one."""
        place = self._key_places.get(mount)
        return (None if place is None else place.key_in(headers, query)) or api_key_of(headers)

    def key_header(self, mount: str) -> bytes:
        """The header that has the key, if it is another than the usual ones; else empty."""
        place = self._key_places.get(mount)
        return b"" if place is None else place.header

    def without_key(self, query: str, mount: str) -> str:
        """The query without the key. It is added when the request is sent, so that no other place gets it."""
        place = self._key_places.get(mount)
        return query if place is None or place.parameter is None else without_parameter(query, place.parameter)

    def account_of(self, key: str | None, mount: str) -> Caller | None:
        """The caller whose key this is, of the sources at the mount, if its account was asked for before. Costs less
        than `caller_for`."""
        found = None if key is None else self._callers.get((mount, key))
        return found if found is not None and self.pollers[(found.source, found.account or "")].key == key else None

    def caller_for(self, key: str | None, mount: str) -> Caller:
        """The caller with this key."""
        if key is not None and self.account_of(key, mount) is None:
            self._callers = {
                (place, poller.key): Caller(source=source, account=account, key=poller.key)
                for (source, account), poller in reversed(list(self.pollers.items()))
                if poller.key is not None
                for place in self._mounts[source]
            }
        unknown = Caller(source=self._source_at(mount), account=None, key=key)
        return self.account_of(key, mount) or unknown

    def _source_at(self, mount: str) -> str:
        """The first source at the mount, else the first of all."""
        return next((name for name, mounts in self._mounts.items() if mount in mounts), next(iter(self._mounts)))

    def caller_bound_to(self, account: tuple[str, str], mount: str) -> Caller | None:
        """The account that a relay token is bound to; None without a key of it, and if its source is not there."""
        key = None if account not in self.pollers else self._key_at(account, mount)
        return None if key is None else Caller(source=account[0], account=account[1], bound=True, key=key)

    def _key_at(self, account: tuple[str, str], mount: str) -> str | None:
        """The key that a relay token stands for; None for an account of another mount, and for one that has to get a
        token with its key before it can send anything."""
        is_sent = self.definitions[account[0]].credential.oauth is None
        return self.pollers[account].key if is_sent and mount in self._mounts[account[0]] else None

    def default_caller(self, mount: str) -> Caller | None:
        """The account a relay token acts for that is bound to none: the only one there with a key, else `default`."""
        having = [(place, key) for place in self.pollers if (key := self._key_at(place, mount)) is not None]
        if len(having) != 1:
            having = [one for one in having if one[0][1] == "default"]
            if len(having) != 1:
                return None
        ((source, account), key) = having[0]
        return Caller(source=source, account=account, key=key)

    def with_account_key(self, headers: Sequence[Header], caller: Caller) -> list[Header]:
        """The headers with the relay token replaced by the account's own key."""
        definition = self.definitions[caller.source]
        added = definition.auth_headers(caller.key or "").items()
        own = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in added]
        return [*without_keys(headers, definition.credential.place.header), *own]

    def sent_by_polls(self, caller: Caller) -> set[Header]:
        """The headers that the relay's own polls have for the upstream's sake."""
        definition = self.definitions[caller.source]
        sent = {**definition.send_headers, **definition.auth_headers(caller.key or "")}
        return {(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in sent.items()}

    # --- the request

    def created_by(self, request: ForwardedRequest) -> str | None:
        """The key of the resource of which the request creates a job; None for any other request."""
        if request.method in SAFE_METHODS:
            return None
        return self.definitions[request.caller.source].created_by(unquote(request.path), request.method)

    def job_read(self, caller: Caller, method: str, path: str, query: str) -> JobKey | None:
        """The job that the request reads; None for any other request or an unknown caller."""
        if method != "GET" or caller.account is None:
            return None
        found = self.definitions[caller.source].read_by(path, query)
        return None if found is None or found[2] else (unquote(found[1]), caller.source, caller.account, found[0])

    def job_changed(self, request: ForwardedRequest) -> JobKey | None:
        """The job at whose address, or one segment below it, the request writes, as a cancellation does; None for any
        other request."""
        if request.method in SAFE_METHODS:
            return None
        paths = (request.path, request.path.rpartition("/")[0])
        found = (self.job_read(request.caller, "GET", path, request.query) for path in paths)
        return next(filter(None, found), None)

    def read_with_query(self, caller: Caller, method: str, path: str, query: str) -> QueriedRead | None:
        """As `job_read`, of a request whose query asks the upstream to wait, or may be that of the job's own address;
        None for any other request."""
        definition = self.definitions[caller.source]
        found = definition.read_by(path, query) if method == "GET" and caller.account is not None else None
        if found is None or not found[2] or caller.account is None:
            return None
        key, id, more = found
        place, resource = (unquote(id), caller.source, caller.account, key), definition.resource_of(key)
        name, _, seconds = more.partition("=")
        if resource.wait is not None and name == resource.wait.query and _SECONDS.fullmatch(seconds):
            wait_seconds = min(float(seconds), resource.wait.max_seconds)
            return QueriedRead(place, wait_seconds, without_parameter(query, name), None)
        return QueriedRead(place, 0.0, query, f"{path}?{query}") if resource.has_addresses else None

    def addresses_in(self, source: str, path: str, query: str) -> Sequence[Pointer] | None:
        """Where the answer to a create or a job read has addresses that are given as the relay's own; None for any
        other request, and for a definition that names none."""
        for resource, places in self._addressed[source]:
            if resource.read_at(path, query) is not None or resource.create_at(unquote(path)) is not None:
                return places
        return None

    def own_url(self, source: str, mount: str, relay_url: str) -> tuple[str, str]:
        """The base URL of the upstream, and the one at which a caller reaches it through the relay."""
        return self._transports[source].root, f"{relay_url}/sources/{mount}" if mount == source else relay_url

    # --- forwarding

    async def forward(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        """Forwards a request that is neither a job read nor a create."""
        try:
            answer = await self.send(request, body)
        except (NotSent, NoAnswer) as error:
            return self.unreachable(request, error)
        self.count_request(request.caller, answer)
        whole = answer.from_memory()
        return ProxyResponse.of(answer, whole or b"", complete=whole is not None)

    async def send(self, request: ForwardedRequest, body: bytes | AsyncIterable[bytes] | None) -> UpstreamResponse:
        """Sends once, but a read once more if its access token was refused. Raises NotSent, NoAnswer."""
        caller, client = request.caller, self._clients[request.caller.source]
        if caller.account is None or caller.key is None:
            return await self._send(request, body)
        try:
            token = await self.unless_stopping(client.token_of(caller.key))
        except NoAccessToken as error:
            raise NotSent(str(error)) from None
        answer = await self._send(request, body, token)
        if token is None or answer.status != UNAUTHORIZED:
            return answer
        client.token_refused(caller.key, token)
        if request.method not in SAFE_METHODS or body is not None:
            return answer
        try:
            renewed = await self.unless_stopping(client.token_of(caller.key))
        except NoAccessToken:
            return answer
        except BaseException:
            answer.close()
            raise
        if renewed == token:
            return answer
        self.count_request(caller, answer)
        answer.close()
        again = await self._send(request, body, renewed)
        if again.status == UNAUTHORIZED:
            client.token_refused(caller.key, token, is_new=True)
        return again

    async def _send(
        self, request: ForwardedRequest, body: bytes | AsyncIterable[bytes] | None, token: str | None = None
    ) -> UpstreamResponse:
        """Sends once, with an access token in the key's place if there is one."""
        target = f"{request.path}?{request.query}" if request.query else request.path
        caller, headers = request.caller, request.headers
        if token is not None:
            headers = self.with_account_key(headers, replace(caller, key=token))
        sent = self.definitions[caller.source].with_key(target, caller.key) if caller.key else target
        sending = self._transports[caller.source].send(request.method, sent, headers, body, has_key=sent != target)
        return await self.unless_stopping(sending)

    async def unless_stopping(self, waiting: Awaitable[Value]) -> Value:
        """Waits for the upstream. Raises NoAnswer if shutdown cancels the wait, so the caller still gets an answer."""
        try:
            return await waiting
        except asyncio.CancelledError:
            if not self.stopping():
                raise
            raise NoAnswer("no answer before the relay shut down") from None

    def count_request(self, caller: Caller, answer: UpstreamResponse) -> None:
        """Counts the request in the budget of the account whose key sent it, if there is one and it is adopted."""
        poller = self.pollers.get((caller.source, caller.account or ""))
        if poller is not None:
            poller.forwarded(answer.status, texts(answer.headers), answer.sent_at)

    # --- the answer

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        """A relay error in the upstream's shape."""
        return self.own(status, self.definitions[caller.source].error_body(code, message, request_id))

    def own(self, status: int, body: bytes, *, cache: Cache = "pass", age_seconds: int | None = None) -> ProxyResponse:
        """An answer from the relay itself."""
        date = http_date(self.clock()).encode()
        headers = [(b"date", date), JSON_TYPE, (b"content-length", b"%d" % len(body))]
        return ProxyResponse(status=status, headers=headers, body=body, cache=cache, age_seconds=age_seconds)

    def unreachable(self, request: ForwardedRequest, error: RelayError, intent: Intent | None = None) -> ProxyResponse:
        """The error for a request that was not sent or got no answer."""
        if isinstance(error, NotSent):
            code, says = "relay_upstream_unreachable", f"{error}. Nothing was sent: it is safe to send it again"
        elif request.method in SAFE_METHODS:
            code, says = "relay_upstream_no_answer", f"{error}. It only reads: it is safe to send it again"
        else:
            listed = "" if intent is None else f", listed as {intent.id} at /v1/intents"
            code = "relay_outcome_unknown"
            says = (
                f"{error}. It was sent, and whether it was carried out is unknown{listed}. Check with the upstream "
                "before you send it again, or repeat it with the same Idempotency-Key"
            )
        log.warning("not_passed_on", code=code, method=request.method, path=request.path, error=str(error))
        return self.problem(request.caller, 502, code, says, request.request_id)

    def count(self, kind: str, response: ProxyResponse) -> None:
        """Counts the answer in the metrics."""
        self._counter(kind, response.cache, f"{response.status // 100}xx").inc()

    async def stop(self, timeout_seconds: float) -> None:
        """Lets borrowed polls settle and created jobs be recorded, within the time."""
        await asyncio.gather(
            self.reads.settling.finish(timeout_seconds), self.creates.unrecorded.finish(timeout_seconds)
        )
