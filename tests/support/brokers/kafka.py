"""A real Apache Kafka, one node in KRaft mode, where Java and Maven are: else the reason why there is none."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.support.brokers.process import Process, free_port

VERSION = "3.9.1"
USER, PASSWORD = "relay", "s3cr3t"
"""Known to the listener with TLS, by PLAIN and SCRAM."""
_POM = f"""<project><modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>test</artifactId>
<version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>"""
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=OPEN://127.0.0.1:{port},OTHER://127.0.0.1:{other},CONTROLLER://127.0.0.1:{controller}{secure}
advertised.listeners=OPEN://127.0.0.1:{port},OTHER://{advertised}{secure}
listener.security.protocol.map=OPEN:PLAINTEXT,OTHER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
inter.broker.listener.name=OPEN
controller.listener.names=CONTROLLER
log.dirs={folder}/logs
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
_SECURE = """
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,OAUTHBEARER
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
 user_{user}="{password}";
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{user}";
"""
_QUICK = ("-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why there is no Kafka; None if there is. Fetches it from Maven Central once."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        return "KAFKA IS NOT TESTED: java and mvn are needed (Debian: default-jre-headless, maven)"
    libraries = _libraries()
    libraries.mkdir(parents=True, exist_ok=True)
    with (libraries / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that test, one fetches
        if (libraries / "done").exists():
            return None
        (libraries / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        try:
            done = subprocess.run(command, cwd=libraries, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            return "KAFKA IS NOT TESTED: Maven did not fetch it in time"
        if done.returncode != 0:
            return f"KAFKA IS NOT TESTED: Maven could not fetch it: {done.stdout[-200:]}"
        _format(libraries)
        (libraries / "done").touch()
    return None


@asynccontextmanager
async def kafka_server(
    folder: Path, *, port: int = 0, advertised: str | None = None, certificate: Path | None = None, secure: int = 0
) -> AsyncIterator[Process]:
    """A node that keeps its log in `folder`. See `kafka_process`."""
    process = kafka_process(folder, port=port, advertised=advertised, certificate=certificate, secure=secure)
    try:
        yield await process.start()
    finally:
        process.kill()


def kafka_process(
    folder: Path,
    *,
    port: int = 0,
    other: int = 0,
    advertised: str | None = None,
    certificate: Path | None = None,
    secure: int = 0,
) -> Process:
    """A node that keeps its log in `folder`, not started yet.

    other       a second port, whose clients are told the address `advertised`
    secure      a port with TLS (`certificate`) and SASL
    """
    port, other, controller = port or free_port(), other or free_port(), free_port()
    text = _SETTINGS.format(
        port=port,
        other=other,
        controller=controller,
        advertised=advertised or f"127.0.0.1:{other}",
        folder=folder,
        secure="" if certificate is None else f",SECURE://127.0.0.1:{secure}",
    )
    if certificate is not None:
        text += _SECURE.format(certificate=certificate, user=USER, password=PASSWORD)
    settings = folder / "server.properties"
    settings.write_text(text)
    shutil.copytree(_libraries() / "formatted", folder / "logs")
    return Process(command=(*_java(), "kafka.Kafka", str(settings)), port=port, folder=folder)


def _format(libraries: Path) -> None:
    """Makes an empty storage once, which each node copies."""
    settings = libraries / "format.properties"
    formatted = libraries / "formatted"
    shutil.rmtree(formatted, ignore_errors=True)
    settings.write_text(
        _SETTINGS.format(port=1, other=2, controller=3, advertised="127.0.0.1:2", folder=libraries, secure="").replace(
            f"{libraries}/logs", str(formatted)
        )
    )
    tool = [*_java(), "kafka.tools.StorageTool", "format", "-t", "c29tZS1jbHVzdGVyLWlkMA", "-c", str(settings)]
    tool += ["-S", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"]
    subprocess.run(tool, check=True, capture_output=True, timeout=60)


def create_topic(port: int, topic: str, partitions: int = 4) -> None:
    """Makes a topic, and waits until it is there."""
    from confluent_kafka.admin import AdminClient, NewTopic

    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    for made in client.create_topics([NewTopic(topic, num_partitions=partitions)]).values():
        made.result(30.0)


def records(port: int, topic: str, *, patience_seconds: float = 10.0) -> Sequence[Any]:
    """All records of a topic, in the order of each partition, read by librdkafka."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "reader", "enable.auto.commit": False}
        | {"log_level": 0, "topic.metadata.refresh.interval.ms": 100}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=patience_seconds).topics[topic].partitions
        ends = {}
        for partition in partitions:
            _, ends[partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10.0)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        found: list[Any] = []
        while len(found) < sum(ends.values()):
            missing_yet = sum(ends.values()) - len(found)
            more = consumer.consume(num_messages=min(1000, missing_yet), timeout=patience_seconds)
            assert more, f"{len(found)} of {sum(ends.values())} records"
            assert all(one.error() is None for one in more), more
            found += more
        return found
    finally:
        consumer.close()


def _java() -> list[str]:
    return ["java", *_QUICK, "-cp", f"{_libraries()}/jars/*"]


def _libraries() -> Path:
    return Path(sys.prefix) / "share" / f"kafka-{VERSION}"
