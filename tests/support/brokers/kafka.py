"""A real Apache Kafka, one node in KRaft mode, where Java and Maven are: else the reason why there is none."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path

from tests.support.brokers.process import Process, free_port

VERSION = "3.9.1"
_POM = f"""<project><modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>test</artifactId>
<version>1</version><dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>"""
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{advertised}
controller.listener.names=CONTROLLER
log.dirs={folder}/logs
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why there is no Kafka; None if there is. Fetches it from Maven Central once."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        return "KAFKA IS NOT TESTED: java and mvn are needed (Debian: default-jre-headless, maven)"
    libraries = _libraries()
    if not (libraries / "done").exists():
        libraries.mkdir(parents=True, exist_ok=True)
        (libraries / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        done = subprocess.run(command, cwd=libraries, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            return f"KAFKA IS NOT TESTED: Maven could not fetch it: {done.stdout[-200:]}"
        (libraries / "done").touch()
    return None


@asynccontextmanager
async def kafka_server(folder: Path, *, port: int = 0, advertised: str | None = None) -> AsyncIterator[Process]:
    """A node that keeps its log in `folder`. `advertised`: the address that it tells clients to use."""
    port, controller = port or free_port(), free_port()
    settings = folder / "server.properties"
    settings.write_text(
        _SETTINGS.format(port=port, controller=controller, advertised=advertised or f"127.0.0.1:{port}", folder=folder)
    )
    java = ["java", "-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{_libraries()}/jars/*"]
    format_storage = [*java, "kafka.tools.StorageTool", "format", "-t", "c29tZS1jbHVzdGVyLWlkMA", "-c", str(settings)]
    subprocess.run(format_storage, check=True, capture_output=True, timeout=60)
    process = Process(command=(*java, "kafka.Kafka", str(settings)), port=port, folder=folder)
    try:
        yield await process.start()
    finally:
        process.kill()


def _libraries() -> Path:
    return Path(sys.prefix) / "share" / f"kafka-{VERSION}"
