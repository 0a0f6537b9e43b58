"""Apache Kafka. An event is delivered once all in-sync replicas have it (`acks=all`).

Each partition has a lane: its own producer identity, sequence numbers, and at most one batch in flight, so events of
a key stay in order. A batch without an answer is unacknowledged (`doubt`). It is sent again with the same numbers
before any other batch of its lane, so brokers store it once, also across attempts and connections.
"""

import asyncio
import hashlib
import random
import ssl
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.bus import kafka_wire as wire
from relay.bus.extras import needed
from relay.bus.kafka_wire import Batch, Identity, Place
from relay.bus.publishers import CannotConnect, causes_of, named
from relay.clock import Clock, wall_clock
from relay.core.deliveries.broker import HELD_BACK, Broker, Message, Published
from relay.tasks import Tasks

_errors = needed("aiokafka.errors", "kafka")

MAX_BATCH_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
"""The default of brokers (`message.max.bytes`)."""
MAX_NODES = 1000
"""Maximum nodes of a cluster."""
MAX_CONNECTIONS = 100
MAX_ASKED = 16
"""Maximum nodes tried before a cluster counts as unreachable."""
MAX_TOPICS = 1000
"""Maximum topics cached: templates can produce any number of names."""
MAX_LANES = 4000
MAX_DOUBTS = 64
"""Maximum lanes with an unacknowledged batch of 256 KiB. The oldest are dropped: their events may be stored twice."""
MAX_SETTLED = 1000
TOPIC_SECONDS = 300.0
"""Cache lifetime of a topic's partitions."""
UNKNOWN_SECONDS = 5.0
"""Cache lifetime of a missing topic."""
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each retry within one attempt."""

_OK, _DUPLICATE = 0, 46
_LOST_IDENTITY = frozenset((45, 47, 49, 59, 90))
"""OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID,
PRODUCER_FENCED: the brokers no longer know this producer's state."""
_NO_TOPIC = Published(error="unknown_topic", detail="there is no such topic, and the broker makes none")
_NO_LEADER = Published(error="nack", detail="the partition has no leader now")
_FEW_REPLICAS = Published(error="nack", detail="too few replicas are in sync")
_IDENTITY_LOST = Published(error="nack", detail="the broker has lost what it knew of this producer")
_PASSING_CODES = {
    -1: Published(error="nack", detail="the broker failed (UNKNOWN_SERVER_ERROR)"),
    3: _NO_TOPIC,
    **dict.fromkeys((5, 6, 9, 74, 75), _NO_LEADER),
    7: Published(error="timeout", detail="the replicas did not acknowledge in time"),
    13: Published(error="read", detail="the broker lost a connection (NETWORK_EXCEPTION)"),
    14: Published(error="nack", detail="the broker is starting"),
    15: Published(error="nack", detail="the broker is starting"),
    **dict.fromkeys((19, 20), _FEW_REPLICAS),
    56: Published(error="nack", detail="the broker cannot write to its disk"),
}
"""Codes of transient errors. After some of them the batch may be stored."""
_PASSING_RESULTS = (*_PASSING_CODES.values(), _IDENTITY_LOST)
_PASSING = frozenset(("connect", "read", "timeout"))
_BROKE_OFF = CannotConnect("read", "the connection broke off before the broker answered")
_TOO_LARGE = Published(error="too_large", detail="the broker takes no message of this size")
_REFUSED = {
    **dict.fromkeys((10, 18), _TOO_LARGE),
    17: Published(error="unknown_topic", detail="the broker takes no topic of this name"),
    29: Published(error="denied", detail="the credential may not write to the topic"),
    31: Published(error="denied", detail="the credential lacks IdempotentWrite on the cluster"),
    87: Published(error="nack", detail="the broker takes no such record: does a compacted topic lack its key?"),
}
_STORED_BEFORE = Published(detail="stored by an earlier attempt")


@dataclass(slots=True, eq=False)
class _Lane:
    """The producer state of one partition.

    sequence   sequence number of the next record
    doubt      the unacknowledged batch
    tries      how often this identity has sent `doubt`
    max_bytes  maximum size of a batch; lowered when the broker refuses one
    settled    digests of messages of an unacknowledged batch that proved to be stored
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    identity: Identity | None = None
    sequence: int = 0
    doubt: Batch | None = None
    tries: int = 0
    max_bytes: int = MAX_BATCH_BYTES
    settled: dict[bytes, None] = field(default_factory=dict)

    def stored(self, batch: Batch) -> None:
        self.sequence = (self.sequence + len(batch.messages)) % wire.MAX_SEQUENCE
        self.doubt, self.tries = None, 0

    def forget(self) -> None:
        """Drops the identity and its batch: its sequence numbers may have been used."""
        self.identity, self.doubt, self.sequence, self.tries = None, None, 0, 0


@dataclass(slots=True)
class _Topic:
    """The leader of each partition, by partition; None: no leader. `why`: the error of an unusable topic."""

    leaders: tuple[tuple[int, int | None], ...] = ()
    why: Published | None = None
    read_at: float = 0.0


class Kafka:
    """A producer and its connections to the nodes of a cluster. Broken connections are replaced."""

    def __init__(self, broker: Broker, tls: ssl.SSLContext | None, clock: Clock = wall_clock) -> None:
        self._broker, self._tls, self._clock = broker, tls, clock
        self._connections: dict[tuple[str, int], wire.Connection] = {}
        self._dialling: dict[tuple[str, int], asyncio.Lock] = {}
        self._nodes: dict[int, tuple[str, int]] = {}
        self._topics: dict[str, _Topic] = {}
        self._reading = asyncio.Lock()
        self._lanes: dict[Place, _Lane] = {}
        self._waiting: dict[wire.Connection, dict[Place, tuple[bytes, asyncio.Future[tuple[int, int]]]]] = {}
        self._tasks = Tasks()
        self._closed = False

    @property
    def broken(self) -> bool:
        """True once it is closed."""
        return self._closed

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        lanes = await self._shared_out(messages, results)
        if len(lanes) == 1:
            [(place, indices)] = lanes.items()
            return await self._in_lane(place, indices, messages, results)
        tasks = [asyncio.ensure_future(self._in_lane(*lane, messages, results)) for lane in lanes.items()]
        try:
            await asyncio.gather(*tasks)
        except BaseException:  # no node, or the caller's time-out
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`. The request creates no topic."""
        answer = await self._asked(wire.metadata_request([place.destination], make=False))
        named = [topic for topic in answer.topics or () if topic[1] == place.destination]
        why = _topic(named[0] if named else None, self._now()).why
        if why == _NO_TOPIC:  # the first event may create it
            return Published(error="unknown_topic", detail="there is no such topic: create it")
        return why if why is not None and why.error in ("unknown_topic", "denied") else None

    async def close(self) -> None:
        """See `Publisher`."""
        self._closed = True
        gone = [connection.close() for connection in self._connections.values()]
        self._connections.clear()
        if gone:
            await asyncio.wait(gone)
        await self._tasks.drain()

    # --- partitions

    async def _shared_out(self, messages: Sequence[Message], results: list[Published | None]) -> dict[Place, list[int]]:
        """Indices of the messages by partition. A message without a partition gets its error in `results`."""
        topics = await self._read_topics({message.destination for message in messages})
        spread = random.getrandbits(31)  # one partition for all keyless messages of a batch
        found: dict[Place, list[int]] = {}
        failed: set[str | None] = set()
        for index, message in enumerate(messages):
            topic = topics[message.destination]
            why = _TOO_LARGE if wire.size_of(message) > MAX_MESSAGE_BYTES else topic.why
            if message.order in failed:
                results[index] = HELD_BACK
            elif why is not None:
                results[index] = why
                failed |= {message.order} - {None}
            else:
                key = message.key if message.key is not None else message.order
                partition, _ = topic.leaders[(spread if key is None else wire.hash_of(key)) % len(topic.leaders)]
                found.setdefault(Place(message.destination, partition), []).append(index)
        return found

    async def _read_topics(self, names: Collection[str]) -> dict[str, _Topic]:
        """The topics by name. Waits up to 0.7 s for topics that the broker is creating."""
        for pause in (*PAUSES[:3], None):
            now = self._now()
            unread = [name for name in names if not self._fresh(name, now)]
            if unread:
                await self._read_metadata(unread, now)
            made = [one for name in unread if (one := self._topics.get(name)) and one.why in (_NO_TOPIC, _NO_LEADER)]
            if not made or pause is None:
                break
            for topic in made:
                topic.read_at = 0.0
            await asyncio.sleep(pause)
        return {name: self._topics.get(name) or _Topic(why=_NO_TOPIC) for name in names}

    def _fresh(self, name: str, now: float) -> bool:
        known = self._topics.get(name)
        return known is not None and now - known.read_at < (TOPIC_SECONDS if known.why is None else UNKNOWN_SECONDS)

    async def _read_metadata(self, topics: Sequence[str], since: float) -> None:
        """Reads nodes and topics from any node, unless another task has read them since `since` (loop time). Raises
        CannotConnect if no node answers."""
        async with self._reading:
            unread = [name for name in topics if name not in self._topics or self._topics[name].read_at <= since]
            if not unread and topics:
                return
            answer = await self._asked(wire.metadata_request(unread))
            if len(answer.brokers) > MAX_NODES:
                raise CannotConnect("protocol", f"the broker advertises {len(answer.brokers):,} nodes")
            nodes = {one[0]: (str(one[1]), int(one[2])) for one in answer.brokers}
            self._nodes = nodes or self._nodes
            now = self._now()
            found: dict[str, Any] = {topic[1]: topic for topic in answer.topics or ()}
            for name in unread:
                self._topics.pop(name, None)
                self._topics[name] = _topic(found.get(name), now)
            while len(self._topics) > max(MAX_TOPICS, len(unread)):
                del self._topics[next(iter(self._topics))]

    # --- connections

    @property
    def _closed_early(self) -> CannotConnect:
        expected = "TLS" if self._tls is None else "no TLS"
        detail = (
            f"the broker closed the connection: is it starting, or does the port expect {expected} or a credential?"
        )
        return CannotConnect("connect", detail)

    async def _asked(self, request: Any) -> Any:
        """The answer of any node. Raises CannotConnect if none answers."""
        known = [address for address, connection in self._connections.items() if connection.connected()]
        others = [*_shuffled(self._broker.addresses), *_shuffled(self._nodes.values())]
        failure: CannotConnect | None = None
        for address in [*known, *dict.fromkeys(others)][:MAX_ASKED]:
            try:
                return await self._answer(await self._to(address), request)
            except CannotConnect as why:
                if failure is None or failure.error in _PASSING:
                    failure = why
                if why.error == "credential":  # retries could lock the user out
                    break
        raise failure or CannotConnect("connect", "the sink names no address")

    async def _to(self, address: tuple[str, int]) -> wire.Connection:
        """A connection to a node. Raises CannotConnect."""
        async with self._dialling.setdefault(address, asyncio.Lock()):
            found = self._connections.get(address)
            if found is not None and found.connected():
                return found
            if self._closed:
                raise CannotConnect("read", "the connection was closed")
            self._close_some()
            connection = wire.Connection(address, self._broker.login, self._tls, self._broker.client)
            try:
                await connection.connect()
            except Exception as error:
                why = _named(error, self._closed_early)
                if why.error == "refused" and address not in self._broker.addresses:
                    why = CannotConnect("refused", f"an address that the broker advertises: {why}")
                raise why from None
            self._connections[address] = connection
            return connection

    def _close_some(self) -> None:
        """Bounds the connections and their locks: a cluster may advertise any number of nodes."""
        self._connections = {at: one for at, one in self._connections.items() if one.connected()}
        while len(self._connections) >= MAX_CONNECTIONS:
            self._connections.pop(next(iter(self._connections))).close()
        if len(self._dialling) > 2 * MAX_NODES:
            self._dialling = {at: lock for at, lock in self._dialling.items() if lock.locked()}

    async def _answer(self, connection: wire.Connection, request: Any) -> Any:
        """The answer to a request. Without one: closes the connection, as it may be half open; raises CannotConnect."""
        try:
            return await connection.send(request)
        except Exception as error:
            connection.close()
            why = _named(error, _BROKE_OFF)
            raise why from None
        except asyncio.CancelledError:
            connection.close()
            raise

    # --- one partition

    async def _in_lane(
        self, place: Place, indices: Sequence[int], messages: Sequence[Message], results: list[Published | None]
    ) -> None:
        """Publishes the messages of a partition in their order."""
        lane = self._lane(place)
        async with lane.turn:
            if lane.doubt is not None and (failure := await self._settle(place, lane)) is not None:
                for index in indices:
                    results[index] = failure
                return
            left = [index for index in indices if not (lane.settled and self._settled(lane, index, messages, results))]
            await self._store_all(place, lane, left, messages, results)

    async def _store_all(
        self,
        place: Place,
        lane: _Lane,
        indices: Sequence[int],
        messages: Sequence[Message],
        results: list[Published | None],
    ) -> None:
        left, failed = deque(indices), set[str | None]()
        while chosen := _next(left, lane.max_bytes, messages, failed, results):
            batch = Batch(tuple(messages[index] for index in chosen), int(self._clock() * 1000))
            result = await self._store(place, lane, batch)
            if isinstance(result, int):
                for n, index in enumerate(chosen):
                    results[index] = Published(detail=f"partition {place.partition}, offset {result + n}")
            elif result.error != "too_large":
                for index in (*chosen, *left):
                    results[index] = result
                return
            elif len(chosen) > 1:  # the batch is too large, but perhaps no single message
                lane.max_bytes = sum(wire.size_of(messages[index]) for index in chosen) // 2
                left.extendleft(reversed(chosen))
            else:
                results[chosen[0]] = result
                failed |= {messages[chosen[0]].order} - {None}

    def _lane(self, place: Place) -> _Lane:
        found = self._lanes.pop(place, None) or _Lane()
        self._lanes[place] = found  # moves it to the end: the least recently used lane is dropped first
        if len(self._lanes) > MAX_LANES:
            idle = [at for at, lane in self._lanes.items() if lane.doubt is None and not lane.turn.locked()]
            for at in idle[: MAX_LANES // 10]:
                del self._lanes[at]
        return found

    async def _settle(self, place: Place, lane: _Lane) -> Published | None:
        """Settles an unacknowledged batch by sending it again. Returns the error if its outcome stays unknown."""
        batch = lane.doubt
        assert batch is not None
        result = await self._store(place, lane, batch)
        if isinstance(result, Published):
            return result if lane.doubt is not None else None
        lane.settled |= dict.fromkeys(map(_digest, batch.messages))
        for digest in list(lane.settled)[:-MAX_SETTLED]:
            del lane.settled[digest]
        return None

    def _settled(self, lane: _Lane, index: int, messages: Sequence[Message], results: list[Published | None]) -> bool:
        """True if a message was stored by an earlier, unacknowledged batch."""
        digest = _digest(messages[index])
        if digest not in lane.settled:
            return False
        del lane.settled[digest]
        results[index] = _STORED_BEFORE
        return True

    async def _store(self, place: Place, lane: _Lane, batch: Batch) -> int | Published:
        """Sends a batch, with retries, until the broker has decided. Returns its offset, or the error.

        It stays unacknowledged while its outcome is unknown, also when cancelled. Raises CannotConnect without a node.
        """
        if lane.doubt is None:
            self._doubt(lane, batch)
        try:
            for pause in (*PAUSES, None):
                began = self._now()
                result = await self._send(place, lane, batch)
                if isinstance(result, int):
                    lane.stored(batch)
                    return result
                if pause is None or not (result in _PASSING_RESULTS or result.error in _PASSING):
                    break
                await asyncio.sleep(pause)
                await self._read_metadata([place.topic], began)
            return result
        finally:
            if lane.tries == 0:  # never sent, or refused
                lane.doubt = None

    def _doubt(self, lane: _Lane, batch: Batch) -> None:
        lane.doubt, lane.tries = batch, 0
        doubts = [one for one in self._lanes.values() if one.doubt is not None and not one.turn.locked()]
        for one in doubts[:-MAX_DOUBTS]:
            one.forget()

    async def _send(self, place: Place, lane: _Lane, batch: Batch) -> int | Published:
        """Sends a batch once. Returns its offset, or the error."""
        topic = self._topics.get(place.topic) or _Topic(why=_NO_TOPIC)
        if topic.why is not None:
            return topic.why
        node = dict(topic.leaders).get(place.partition)
        address = None if node is None else self._nodes.get(node)
        if address is None:
            return _NO_LEADER
        try:
            connection = await self._to(address)
            if lane.identity is None:
                answer = await self._answer(connection, wire.identity_request())
                if answer.error_code != _OK:
                    return _said(answer.error_code)
                lane.identity = Identity(int(answer.producer_id), int(answer.producer_epoch))
                lane.sequence = lane.tries = 0
            lane.tries += 1
            records = wire.encoded(batch, lane.identity, lane.sequence)
            code, offset = await self._produced(connection, place, records)
        except CannotConnect as why:
            return Published(error=why.error, detail=str(why))
        if code == _OK or (code == _DUPLICATE and lane.tries > 1):
            return offset
        if code in _LOST_IDENTITY or code == _DUPLICATE:
            lane.identity, lane.sequence, lane.tries = None, 0, 0
            return _IDENTITY_LOST
        said = _said(code)
        if said not in _PASSING_RESULTS:
            lane.forget()  # an earlier try may have used its numbers
        return said

    async def _produced(self, connection: wire.Connection, place: Place, records: bytes) -> tuple[int, int]:
        """Sends records, in one request with those of other lanes at this moment: a node answers the requests of a
        connection one after the other. Returns an error code and the offset."""
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(connection, {})
        waiting[place] = (records, answer)
        if len(waiting) == 1:
            self._tasks.start(self._exchange(connection))
        try:
            return await answer
        except asyncio.CancelledError:
            connection.close()  # it may be half open
            raise

    async def _exchange(self, connection: wire.Connection) -> None:
        await asyncio.sleep(0)  # collects lanes that start together
        waiting = self._waiting.pop(connection)
        try:
            request = wire.produce_request({place: records for place, (records, _) in waiting.items()})
            answers = _stored(await self._answer(connection, request))
        except CannotConnect as why:
            for _, answer in waiting.values():
                if not answer.done():
                    answer.set_exception(CannotConnect(why.error, str(why)))
            return
        for place, (_, answer) in waiting.items():
            if answer.done():
                continue
            if place in answers:
                answer.set_result(answers[place])
            else:
                answer.set_exception(CannotConnect("protocol", "the broker answered for other partitions"))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def connect(broker: Broker, tls: ssl.SSLContext | None) -> Kafka:
    """A producer that has read the cluster's metadata. Raises CannotConnect."""
    found = Kafka(broker, tls)
    try:
        await found._read_metadata((), 0.0)
    except BaseException as error:
        await found.close()
        if error is _BROKE_OFF:
            raise found._closed_early from None
        raise
    return found


def _topic(answer: Any, now: float) -> _Topic:
    if answer is None:
        return _Topic(why=_NO_TOPIC, read_at=now)
    code, partitions = answer[0], answer[-1]
    if code != _OK or not partitions:
        return _Topic(why=_said(code) if code != _OK else _NO_TOPIC, read_at=now)
    leaders = sorted((int(one[1]), int(one[2])) for one in partitions)
    return _Topic(tuple((partition, None if node < 0 else node) for partition, node in leaders), read_at=now)


def _stored(answer: Any) -> dict[Place, tuple[int, int]]:
    try:
        return wire.stored(answer)
    except (TypeError, ValueError):
        raise CannotConnect("protocol", "the broker's answer makes no sense") from None


def _said(code: int) -> Published:
    """The result for an error code."""
    name = _errors.for_code(code).__name__
    found = _PASSING_CODES.get(code) or _REFUSED.get(code)
    return found or Published(error="nack", detail=f"the broker answered {name} ({code})")


def _next(
    left: deque[int],
    max_bytes: int,
    messages: Sequence[Message],
    failed: Collection[str | None],
    results: list[Published | None],
) -> list[int]:
    """Takes the messages of the next batch from `left`. Those behind a failed message of their order are held back."""
    found: list[int] = []
    size = 0
    while left:
        message = messages[left[0]]
        if message.order in failed:
            results[left.popleft()] = HELD_BACK
            continue
        size += wire.size_of(message)
        if found and size > max_bytes:
            break
        found.append(left.popleft())
    return found


def _shuffled(addresses: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    found = list(addresses)
    random.shuffle(found)
    return found


def _named(error: Exception, ended: CannotConnect) -> CannotConnect:
    """The error for a failure of a connection. `ended`: the error if the broker closed it."""
    for seen in causes_of(error):
        match seen:
            case wire.BadAnswer():
                return CannotConnect("protocol", str(seen))
            case _errors.SaslAuthenticationFailed() | _errors.AuthenticationFailedError():
                return CannotConnect("credential", "the broker does not accept the credential")
            case _errors.UnsupportedSaslMechanismError() | _errors.IllegalSaslStateError():
                return CannotConnect("credential", "the broker does not take this mechanism of SASL on this port")
            case _errors.IncompatibleBrokerVersion() | NotImplementedError():
                return CannotConnect("protocol", "the broker speaks another version: Kafka 0.11 or newer is needed")
            case asyncio.IncompleteReadError() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
                return ended
            case TimeoutError():
                return CannotConnect("timeout", "the broker did not answer in time")
            case OSError() | CannotConnect():
                return named(seen)
    if isinstance(error, _errors.KafkaConnectionError):
        return ended
    return CannotConnect("protocol", f"the broker's answer makes no sense ({type(error).__name__})")


def _digest(message: Message) -> bytes:
    said = repr((message.destination, message.key, message.delivery, message.headers, message.body))
    return hashlib.sha256(said.encode("utf-8", "replace")).digest()
