"""Connections and requests to a node of a Kafka cluster, with aiokafka's encoders.

The size of a response is limited, and the rounds of hashing that a node may demand for a login.
"""

import ssl
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from relay.bus.publishers import CannotConnect
from relay.bus.shared import needed
from relay.core.deliveries.broker import CLIENT, Login, Message

# Private parts of aiokafka: its connection, with the overridden methods and the attributes that they use, its requests
# and its record builder. tests/unit/bus/test_kafka.py breaks if they change, so pyproject.toml pins one minor version.
_connections = needed("aiokafka.conn", "kafka")
_metadata = needed("aiokafka.protocol.metadata", "kafka")
_produce = needed("aiokafka.protocol.produce", "kafka")
_transaction = needed("aiokafka.protocol.transaction", "kafka")
_records = needed("aiokafka.record.default_records", "kafka")
_murmur2 = needed("aiokafka.partitioner", "kafka").murmur2
_token_provider: Any = needed("aiokafka.abc", "kafka").AbstractTokenProvider

REQUEST_SECONDS = 10.0
"""Time-out of one answer."""
MAX_RESPONSE_BYTES = 1024 * 1024
"""Maximum size of a response. Metadata of a topic take about 40 bytes per partition."""
SCRAM_ITERATIONS = range(4096, 65_537)
"""Accepted rounds. Kafka uses 4,096 to 16,384. Fewer would expose the password, more would block a core."""
MAX_SEQUENCE = 2**31
RECORD_OVERHEAD_BYTES = 70
"""Lengths, time and offset of a record."""


class BadAnswer(Exception):
    """An answer that no Kafka node sends. The text is one line without secrets."""


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that are stored together or not at all. `at_ms`: their time, in epoch milliseconds."""

    messages: tuple[Message, ...]
    at_ms: int


class _Scram(_connections.ScramAuthenticator):  # type: ignore[misc, name-defined]
    def create_salted_password(self, salt: bytes, iterations: int) -> None:
        if iterations not in SCRAM_ITERATIONS:
            raise BadAnswer(f"the broker asks for {iterations:,} rounds of SCRAM: 4,096 to 65,536 are taken")
        super().create_salted_password(salt, iterations)


class Connection(_connections.AIOKafkaConnection):  # type: ignore[misc, name-defined]
    """A connection to one node. `send` returns an awaitable answer; answers come in the order of requests."""

    def __init__(
        self, address: tuple[str, int], login: Login | None, tls: ssl.SSLContext | None, client: str = CLIENT
    ) -> None:
        super().__init__(
            *address,
            client_id=client,
            request_timeout_ms=int(REQUEST_SECONDS * 1000),
            ssl_context=tls,
            **_security(login, secure=tls is not None),
        )

    def authenticator_scram(self) -> Any:
        """See `AIOKafkaConnection`."""
        return _Scram(
            loop=self._loop,
            sasl_plain_password=self._sasl_plain_password,
            sasl_plain_username=self._sasl_plain_username,
            sasl_mechanism=self._sasl_mechanism,
        )

    def close(self, reason: Any = None, exc: BaseException | None = None) -> Any:
        """Closes the connection at once: with TLS a node could otherwise delay it."""
        writer = self._writer
        ended = super().close(reason, exc)
        if writer is not None:
            writer.transport.abort()
        return ended

    @staticmethod
    async def _read(self_ref: Any) -> None:
        connection = self_ref()
        reader = None if connection is None else connection._reader
        del connection  # allows garbage collection of an abandoned connection
        while reader is not None:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            if not 0 <= size <= MAX_RESPONSE_BYTES:
                hint = "is this the port of a broker, and does it expect TLS?"
                raise BadAnswer(f"the broker announces an answer of {size:,} bytes: {hint}")
            frame = await reader.readexactly(size)
            connection = self_ref()
            if connection is None:
                return
            connection._handle_frame(frame)
            del connection


def _security(login: Login | None, *, secure: bool) -> dict[str, Any]:
    if login is None:
        return {"security_protocol": "SSL" if secure else "PLAINTEXT"}
    if not secure and not login.mechanism.startswith("SCRAM-"):
        detail = f"{login.mechanism} would send the secret in the clear: use kafkas:// (TLS), or SCRAM"
        raise CannotConnect("credential", detail)
    found: dict[str, Any] = {
        "security_protocol": "SASL_SSL" if secure else "SASL_PLAINTEXT",
        "sasl_mechanism": login.mechanism,
    }
    if login.mechanism == "OAUTHBEARER":
        return {**found, "sasl_oauth_token_provider": _Token(login.secret)}
    return {**found, "sasl_plain_username": login.name or "", "sasl_plain_password": login.secret}


class _Token(_token_provider):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


def metadata_request(topics: Sequence[str], *, make: bool = True) -> Any:
    """Asks for the nodes, and for the partitions of topics. `make`: lets a broker with automatic creation create
    missing topics."""
    return _metadata.MetadataRequest(list(topics), make)


def identity_request() -> Any:
    """Asks for a producer's identity."""
    return _transaction.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=2**31 - 1)


def produce_request(records: Mapping[Place, bytes]) -> Any:
    """Stores records of partitions on all in-sync replicas (`acks=all`)."""
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for place, one in records.items():
        topics.setdefault(place.topic, []).append((place.partition, one))
    return _produce.ProduceRequest(
        transactional_id=None, required_acks=-1, timeout=int(REQUEST_SECONDS * 1000), topics=list(topics.items())
    )


def stored(places: Collection[Place], answer: Any) -> dict[Place, tuple[int, int]]:
    """The error code and the offset of each partition in the answer to `produce_request`. Raises CannotConnect."""
    try:
        found = {Place(topic, one[0]): (int(one[1]), int(one[2])) for topic, parts in answer.topics for one in parts}
    except (TypeError, ValueError, IndexError):
        found = {}
    if found.keys() != set(places):
        raise CannotConnect("protocol", "the broker's answer makes no sense")
    return found


def encoded(batch: Batch, producer: int, epoch: int, sequence: int) -> bytes:
    """The records of a batch. The same arguments give the same bytes."""
    builder = _records.DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=2**30,
    )
    for offset, message in enumerate(batch.messages):
        builder.append(
            offset,
            batch.at_ms,
            None if message.key is None else message.key.encode("utf-8", "replace"),
            message.body,
            [(name, value.encode("utf-8", "replace")) for name, value in message.headers],
        )
    return bytes(builder.build())


def size_of(message: Message) -> int:
    """Approximate size of a message in a batch, in bytes."""
    headers = sum(len(name) + len(value) + 4 for name, value in message.headers)
    return len(message.body) + len(message.key or "") + headers + RECORD_OVERHEAD_BYTES


@lru_cache(maxsize=10_000)
def hash_of(key: str) -> int:
    """The hash that selects a key's partition, as in the Java and librdkafka clients (`murmur2`)."""
    return int(_murmur2(key.encode("utf-8", "replace"))) & 0x7FFFFFFF
