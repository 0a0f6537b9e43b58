"""Apache Kafka. An event is delivered once all in-sync replicas have it (`acks=all`).

Each partition has a lane: its own producer identity, sequence numbers, and at most one batch in flight, so events of
one job or stream stay in order. An unacknowledged batch is sent again with the same numbers before any other batch of
its lane, so brokers store it once, also across attempts and connections.
"""

import asyncio
import hashlib
import random
import ssl
from array import array
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.bus import kafka_wire as wire
from relay.bus.kafka_wire import Batch, Place
from relay.bus.publishers import CannotConnect, causes_of, named
from relay.bus.shared import needed
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
MAX_PARTITIONS = 200_000
"""Maximum partitions of all cached topics, at 4 bytes each."""
MAX_LANES = 4000
MAX_UNACKNOWLEDGED = 64
"""Maximum lanes with an unacknowledged batch of 256 KiB. The oldest are dropped: their events may be stored twice."""
MAX_SETTLED = 10_000
"""Maximum messages remembered that an unacknowledged batch proved to have stored."""
TOPIC_SECONDS = 300.0
"""Cache lifetime of a topic's partitions."""
UNKNOWN_SECONDS = 5.0
"""Cache lifetime of a missing topic."""
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each retry within one attempt."""

_OK, _NO_TOPIC, _NO_LEADER, _TOO_LARGE, _DUPLICATE = 0, 3, 5, 10, 46
_PASSING_CODES = frozenset((-1, _NO_TOPIC, _NO_LEADER, 6, 7, 9, 13, 14, 15, 19, 20, 56, 74, 75))
"""Codes of transient errors. After some of them the batch may be stored."""
_LOST_IDENTITY = frozenset((45, 47, 49, 59, 90))
"""OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID,
PRODUCER_FENCED: the brokers no longer know this producer's state."""
_PASSING = frozenset(("connect", "read", "timeout"))
_RESULTS = {
    _NO_TOPIC: ("unknown_topic", "there is no such topic, and the broker makes none"),
    **dict.fromkeys((_NO_LEADER, 6), ("nack", "the partition has no leader now")),
    7: ("timeout", "the replicas did not acknowledge in time"),
    **dict.fromkeys((_TOO_LARGE, 18), ("too_large", "the broker takes no message of this size")),
    17: ("unknown_topic", "the broker takes no topic of this name"),
    **dict.fromkeys((19, 20), ("nack", "too few replicas are in sync")),
    29: ("denied", "the credential may not write to the topic"),
    31: ("denied", "the credential lacks IdempotentWrite on the cluster"),
    87: ("nack", "the broker takes no such record: does a compacted topic lack its key?"),
}
_IDENTITY_LOST = Published(error="nack", detail="the broker has lost what it knew of this producer")
_STORED_BEFORE = Published(detail="stored by an earlier attempt")
_BROKE_OFF = CannotConnect("read", "the connection broke off before the broker answered")
_CLOSED_EARLY = CannotConnect(
    "connect", "the broker closed the connection: is it starting, or does the port expect TLS, no TLS or a credential?"
)


class _Lock(asyncio.Lock):
    """A lock with the number of tasks that hold it or wait for it. While it passes to a waiter it is not locked."""

    users = 0

    async def __aenter__(self) -> None:
        self.users += 1
        try:
            await super().__aenter__()
        except BaseException:
            self.users -= 1
            raise

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)
        self.users -= 1


@dataclass(slots=True, eq=False)
class _Lane:
    """The producer state of one partition.

    identity        of the producer at the brokers, and its epoch
    sequence        sequence number of the next record
    unacknowledged  the batch that was sent and not answered
    tries           how often this identity has sent that batch
    max_bytes       maximum size of a batch; lowered when the broker refuses one
    """

    lock: _Lock = field(default_factory=_Lock)
    identity: tuple[int, int] | None = None
    sequence: int = 0
    unacknowledged: Batch | None = None
    tries: int = 0
    max_bytes: int = MAX_BATCH_BYTES

    def stored(self, batch: Batch) -> None:
        self.sequence = (self.sequence + len(batch.messages)) % wire.MAX_SEQUENCE
        self.unacknowledged, self.tries = None, 0

    def forget(self) -> None:
        """Drops the identity and its batch: its sequence numbers may have been used."""
        self.identity, self.unacknowledged, self.sequence, self.tries = None, None, 0, 0


@dataclass(slots=True)
class _Topic:
    """The leader of each partition; negative: no leader. `code`: the error of an unusable topic."""

    leaders: "array[int]" = field(default_factory=lambda: array("i"))
    code: int = _NO_TOPIC
    read_at: float = 0.0


@dataclass(slots=True)
class _Link:
    """The connection to a node. `lock`: one task dials."""

    lock: _Lock = field(default_factory=_Lock)
    connection: wire.Connection | None = None

    @property
    def open(self) -> wire.Connection | None:
        return self.connection if self.connection is not None and self.connection.connected() else None


class Kafka:
    """A producer and its connections to the nodes of a cluster. Broken connections are replaced."""

    def __init__(self, broker: Broker, tls: ssl.SSLContext | None, clock: Clock = wall_clock) -> None:
        self._broker, self._tls, self._clock = broker, tls, clock
        self._links: dict[tuple[str, int], _Link] = {}
        self._nodes: dict[int, tuple[str, int]] = {}
        self._topics: dict[str, _Topic] = {}
        self._reading = asyncio.Lock()
        self._lanes: dict[Place, _Lane] = {}
        self._settled: dict[bytes, bool] = {}
        """Digests of messages of unacknowledged batches that proved to be stored."""
        self._closed = False
        self._waiting: dict[wire.Connection, dict[Place, tuple[bytes, asyncio.Future[tuple[int, int]]]]] = {}
        self._tasks = Tasks()

    @property
    def broken(self) -> bool:
        """True once it is closed."""
        return self._closed

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """See `Publisher`."""
        lanes = await self._by_partition(messages, results)
        work = [self._in_lane(place, indices, messages, results) for place, indices in lanes.items()]
        for error in await asyncio.gather(*work, return_exceptions=True):
            if error is not None:
                raise error

    async def missing(self, place: Message) -> Published | None:
        """See `Publisher`. The request creates no topic."""
        answer = await self._ask_any(wire.metadata_request([place.destination], make=False))
        code = _topic(place.destination, answer, self._now()).code
        if code == _NO_TOPIC:  # the first event may create it
            return Published(error="unknown_topic", detail="there is no such topic: create it")
        result = _result_of(code)
        return result if result.error in ("unknown_topic", "denied") else None

    async def close(self) -> None:
        """See `Publisher`."""
        self._closed = True
        gone = [link.connection.close() for link in self._links.values() if link.connection is not None]
        self._links.clear()
        if gone:
            await asyncio.wait(gone)

    # --- partitions

    async def _by_partition(
        self, messages: Sequence[Message], results: list[Published | None]
    ) -> dict[Place, list[int]]:
        """Indices of the messages by partition. A message without a partition gets its error in `results`."""
        topics = await self._read_topics({message.destination for message in messages})
        spread = random.getrandbits(31)  # one partition for all keyless messages of a batch
        found: dict[Place, list[int]] = {}
        failed: set[str | None] = set()
        for index, message in enumerate(messages):
            topic = topics[message.destination]
            code = _TOO_LARGE if wire.size_of(message) > MAX_MESSAGE_BYTES else topic.code
            if message.order in failed:
                results[index] = HELD_BACK
            elif code != _OK:
                results[index] = _result_of(code)
                failed |= {message.order} - {None}
            else:
                key = message.key if message.key is not None else message.order
                partition = (spread if key is None else wire.hash_of(key)) % len(topic.leaders)
                found.setdefault(Place(message.destination, partition), []).append(index)
        return found

    async def _read_topics(self, names: Collection[str]) -> dict[str, _Topic]:
        """The topics by name. Waits up to 0.7 s for topics that the broker is creating."""
        for pause in (*PAUSES[:3], None):
            now = self._now()
            unread = [name for name in names if not self._is_fresh(name, now)]
            if unread:
                await self._read_metadata(unread, now)
            made = [one for name in unread if (one := self._topics.get(name)) and one.code in (_NO_TOPIC, _NO_LEADER)]
            if not made or pause is None:
                break
            for topic in made:
                topic.read_at = 0.0
            await asyncio.sleep(pause)
        return {name: self._topics.get(name) or _Topic() for name in names}

    def _is_fresh(self, name: str, now: float) -> bool:
        known = self._topics.get(name)
        return known is not None and now - known.read_at < (TOPIC_SECONDS if known.code == _OK else UNKNOWN_SECONDS)

    async def _read_metadata(self, topics: Sequence[str], since: float) -> None:
        """Reads nodes and topics from any node, unless another task has read them since `since` (loop time). Raises
        CannotConnect if no node answers."""
        async with self._reading:
            unread = [name for name in topics if name not in self._topics or self._topics[name].read_at <= since]
            if not unread and topics:
                return
            answer = await self._ask_any(wire.metadata_request(unread))
            if len(answer.brokers) > MAX_NODES:
                raise CannotConnect("protocol", f"the broker advertises {len(answer.brokers):,} nodes")
            self._nodes = {one[0]: (str(one[1]), int(one[2])) for one in answer.brokers} or self._nodes
            for name in unread:
                self._topics.pop(name, None)
                self._topics[name] = _topic(name, answer, self._now())
            partitions = sum(len(topic.leaders) for topic in self._topics.values())
            for name in list(self._topics)[: -len(unread)]:
                if len(self._topics) <= MAX_TOPICS and partitions <= MAX_PARTITIONS:
                    break
                partitions -= len(self._topics.pop(name).leaders)

    # --- connections

    async def _ask_any(self, request: Any) -> Any:
        """The answer of any node. Raises CannotConnect if none answers."""
        known = [address for address, link in self._links.items() if link.open is not None]
        failure: CannotConnect | None = None
        for address in [*dict.fromkeys((*known, *self._broker.addresses, *self._nodes.values()))][:MAX_ASKED]:
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
        link = self._links.setdefault(address, _Link())
        async with link.lock:
            if link.open is not None:
                return link.open
            if self._closed:
                raise CannotConnect("read", "the connection was closed")
            idle = [at for at, one in self._links.items() if not one.lock.users]
            for at in idle[: max(0, len(self._links) - MAX_CONNECTIONS)]:  # a cluster advertises any number of nodes
                if (ended := self._links.pop(at).connection) is not None:
                    ended.close()
            connection = wire.Connection(address, self._broker.login, self._tls, self._broker.client)
            try:
                await connection.connect()
            except Exception as error:
                why = _named(error, _CLOSED_EARLY)
                if why.error == "refused" and address not in self._broker.addresses:
                    why = CannotConnect("refused", f"an address that the broker advertises: {why}")
                raise why from None
            link.connection = connection
            return connection

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
        async with lane.lock:
            failure = await self._settle(place, lane)
            for index in indices:
                stored = failure is None and self._settled and self._settled.pop(_digest(messages[index]), False)
                results[index] = _STORED_BEFORE if stored else failure
            left, failed = deque(index for index in indices if results[index] is None), set[str | None]()
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
                    lane.max_bytes //= 2
                    left.extendleft(reversed(chosen))
                else:
                    results[chosen[0]] = result
                    failed |= {messages[chosen[0]].order} - {None}

    def _lane(self, place: Place) -> _Lane:
        found = self._lanes.pop(place, None) or _Lane()
        self._lanes[place] = found  # moves it to the end: the least recently used lane is dropped first
        if len(self._lanes) > MAX_LANES:
            idle = [at for at, lane in self._lanes.items() if lane.unacknowledged is None and not lane.lock.users]
            for at in idle[: MAX_LANES // 10]:
                del self._lanes[at]
        return found

    async def _settle(self, place: Place, lane: _Lane) -> Published | None:
        """Settles an unacknowledged batch by sending it again. Returns the error if its outcome stays unknown."""
        batch = lane.unacknowledged
        if batch is None:
            return None
        result = await self._store(place, lane, batch)
        if isinstance(result, Published):
            return result if lane.unacknowledged is not None else None
        self._settled |= dict.fromkeys(map(_digest, batch.messages), True)
        for digest in list(self._settled)[:-MAX_SETTLED]:
            del self._settled[digest]
        return None

    async def _store(self, place: Place, lane: _Lane, batch: Batch) -> int | Published:
        """Sends a batch, with retries, until the broker has decided. Returns its offset, or the error.

        It stays unacknowledged while its outcome is unknown, also when cancelled. Raises CannotConnect without a node.
        """
        if lane.unacknowledged is None:
            lane.unacknowledged, lane.tries = batch, 0
            kept = [one for one in self._lanes.values() if one.unacknowledged is not None and not one.lock.users]
            for one in kept[:-MAX_UNACKNOWLEDGED]:
                one.forget()
        try:
            for pause in (*PAUSES, None):
                began = self._now()
                result, passes = await self._send(place, lane, batch)
                if isinstance(result, int):
                    lane.stored(batch)
                if pause is None or not passes:
                    break
                await asyncio.sleep(pause)
                await self._read_metadata([place.topic], began)
            return result
        finally:
            if lane.tries == 0:  # never sent, or refused
                lane.unacknowledged = None

    async def _send(self, place: Place, lane: _Lane, batch: Batch) -> tuple[int | Published, bool]:
        """Sends a batch once. Returns its offset, or the error and whether it passes."""
        topic = self._topics.get(place.topic) or _Topic()
        address = self._nodes.get(topic.leaders[place.partition] if place.partition < len(topic.leaders) else -1)
        if topic.code != _OK or address is None:
            code = topic.code or _NO_LEADER
            return _result_of(code), code in _PASSING_CODES
        try:
            connection = await self._to(address)
            if lane.identity is None:
                answer = await self._answer(connection, wire.identity_request())
                if answer.error_code != _OK:
                    return _result_of(answer.error_code), answer.error_code in _PASSING_CODES
                lane.identity = (int(answer.producer_id), int(answer.producer_epoch))
                lane.sequence = lane.tries = 0
            lane.tries += 1
            records = wire.encoded(batch, *lane.identity, lane.sequence)
            code, offset = await self._produced(connection, place, records)
        except CannotConnect as why:
            return Published(error=why.error, detail=str(why)), why.error in _PASSING
        if code == _OK or (code == _DUPLICATE and lane.tries > 1):
            return offset, False
        if code in _LOST_IDENTITY or code == _DUPLICATE:
            lane.identity, lane.sequence, lane.tries = None, 0, 0
            return _IDENTITY_LOST, True
        if code not in _PASSING_CODES:
            lane.forget()  # an earlier try may have used its numbers
        return _result_of(code), code in _PASSING_CODES

    async def _produced(self, connection: wire.Connection, place: Place, records: bytes) -> tuple[int, int]:
        """Sends records, in one request with those of other lanes that start now: a node answers the requests of a
        connection one after the other, each when all replicas have it. Returns an error code and the offset."""
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
        await asyncio.sleep(0)  # lanes that start together
        waiting = self._waiting.pop(connection)
        try:
            request = wire.produce_request({place: records for place, (records, _) in waiting.items()})
            found = wire.stored(waiting, await self._answer(connection, request))
        except Exception as why:  # each lane of the request waits for it
            for _, answer in waiting.values():
                if not answer.done():
                    answer.set_exception(CannotConnect(why.error, str(why)) if isinstance(why, CannotConnect) else why)
        else:
            for place, (_, answer) in waiting.items():
                if not answer.done():
                    answer.set_result(found[place])

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
            raise _CLOSED_EARLY from None
        raise
    return found


def _topic(name: str, answer: Any, now: float) -> _Topic:
    """A topic in an answer to `metadata_request`."""
    found = next((one for one in answer.topics or () if one[1] == name), None)
    if found is None or found[0] != _OK or not found[-1]:
        return _Topic(code=(found and found[0]) or _NO_TOPIC, read_at=now)
    leaders = array("i", [-1]) * len(found[-1])
    for one in found[-1]:
        if 0 <= one[1] < len(leaders):  # brokers number partitions without gaps
            leaders[one[1]] = one[2]
    return _Topic(leaders, _OK, now)


def _result_of(code: int) -> Published:
    """The result for an error code."""
    name = _errors.for_code(code).__name__
    error, detail = _RESULTS.get(code, ("nack", f"the broker answered {name} ({code})"))
    return Published(error=error, detail=detail)


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
    text = repr((message.destination, message.key, message.delivery, message.headers, message.body))
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
