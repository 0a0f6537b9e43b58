"""A node of a Kafka cluster that lies, fails and falls silent as a test says. It deduplicates like a real one."""

import asyncio
import ssl
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Self

from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    SaslAuthenticateRequest_v0,
    SaslAuthenticateResponse_v0,
    SaslHandShakeResponse_v1,
)
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.metadata import MetadataRequest_v5, MetadataResponse_v5
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.transaction import InitProducerIdResponse_v0
from aiokafka.record.memory_records import MemoryRecords

PRODUCE, METADATA, HANDSHAKE, VERSIONS, IDENTITY, AUTHENTICATE = 0, 3, 17, 18, 22, 36
_APIS = [(PRODUCE, 3, 7), (METADATA, 0, 5), (HANDSHAKE, 0, 1), (VERSIONS, 0, 0), (IDENTITY, 0, 0), (AUTHENTICATE, 0, 0)]
HANG_UP = "hang up"
"""As a produce step: the records are stored, and the connection ends without an answer."""
SILENT = "silent"
"""The records are stored, and no answer comes."""


@dataclass(kw_only=True)
class FakeKafka:
    """One node.

    brokers  that it advertises, by id; None: only itself
    topics   leaders by partition, or an error code
    steps    what the next requests to store meet: an error code, `HANG_UP` or `SILENT`; then all is stored
    raw      bytes that answer a request of this kind instead
    secrets  what SASL answers to each message; None: an error
    """

    brokers: dict[int, tuple[str, int]] | None = None
    topics: dict[str, list[int] | int] = field(default_factory=lambda: {"orders": [1]})
    steps: list[int | str] = field(default_factory=list)
    raw: dict[int, bytes] = field(default_factory=dict)
    secrets: Callable[[bytes], bytes | None] | None = None
    max_records: int = 10_000
    tls: ssl.SSLContext | None = None
    stored: list[tuple[int, bytes | None, bytes]] = field(default_factory=list)
    """Partition, key and value."""
    batches: list[tuple[int, int, int]] = field(default_factory=list)
    """Producer, first number and count of each batch that came."""
    requests: list[int] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a client has asked for a topic."""
    unanswered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once records were stored and not answered."""
    port: int = 0
    _numbers: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    _producers: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        """Loses what it knows of producers."""
        self._numbers = defaultdict(lambda: -1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = BytesIO(await reader.readexactly(size))
                api, _, number, _ = RequestHeader_v1.SCHEMA.decode(request)
                self.requests.append(api)
                answer = self._answer(api, request)
                if answer == HANG_UP:
                    break
                if isinstance(answer, bytes):
                    frame = struct.pack(">i", number) + answer
                    writer.write(self.raw.get(api, struct.pack(">i", len(frame)) + frame))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def _answer(self, api: int, request: BytesIO) -> bytes | str:
        answer: Any
        match api:
            case 18:
                answer = ApiVersionResponse_v0(0, _APIS)
            case 3:
                asked: Any = MetadataRequest_v5.decode(request)
                answer = self._metadata(asked.topics or ())
                if asked.topics:
                    self.asked.set()
            case 22:
                self._producers += 1
                answer = InitProducerIdResponse_v0(0, 0, 1000 + self._producers, 0)
            case 17:
                answer = SaslHandShakeResponse_v1(0, ["PLAIN", "SCRAM-SHA-256"])
            case 36:
                said: Any = SaslAuthenticateRequest_v0.decode(request)
                secret = self.secrets(said.sasl_auth_bytes) if self.secrets is not None else None
                answer = SaslAuthenticateResponse_v0(58 if secret is None else 0, "s3cr3t is wrong", secret or b"")
            case _:
                return self._store(ProduceRequest_v7.decode(request))
        encoded: bytes = answer.encode()
        return encoded

    def _metadata(self, topics: Sequence[str]) -> Any:
        brokers = {1: ("127.0.0.1", self.port)} if self.brokers is None else self.brokers
        found = []
        for name in topics:
            known = self.topics.get(name, 3)
            leaders = known if isinstance(known, list) else []
            partitions = [(0, n, leader, [leader], [leader], []) for n, leader in enumerate(leaders)]
            found.append((0 if leaders else known, name, False, partitions))
        nodes = [(node, host, port, None) for node, (host, port) in brokers.items()]
        return MetadataResponse_v5(0, nodes, "fake", 1, found)

    def _store(self, request: Any) -> bytes | str:
        step = self.steps.pop(0) if self.steps else 0
        answers = [
            (topic, [(partition, *self._stored(partition, records, step), -1, 0) for partition, records in partitions])
            for topic, partitions in request.topics
        ]
        if isinstance(step, str):
            self.unanswered.set()
            return step
        answer: bytes = ProduceResponse_v7(answers, 0).encode()
        return answer

    def _stored(self, partition: int, records: bytes, step: int | str) -> tuple[int, int]:
        """An error code, and an offset."""
        batch: Any = MemoryRecords(records).next_batch()
        found = list(batch)
        count, place = len(found), (batch.producer_id, partition)
        self.batches.append((batch.producer_id, batch.base_sequence, count))
        if count > self.max_records:
            return 10, 0
        if isinstance(step, int) and step != 0:
            return step, 0
        offset, expected = len(self.stored), self._numbers[place]
        if batch.base_sequence == expected:
            self._numbers[place] += count
            self.stored += [(partition, one.key, one.value) for one in found]
        elif batch.base_sequence + count != expected:
            return 45, 0
        return 0, offset
