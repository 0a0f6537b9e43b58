"""A real RabbitMQ, one node of its own, where Debian's package is: else the reason why there is none."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.brokers.process import Process, free_port

SCRIPTS = Path("/usr/lib/rabbitmq/bin")
"""Those in /usr/sbin change the user and the folder."""
USERS = {"guest": "guest", "relay": "s3cr3t/%:@ü"}
PERMISSIONS = {"configure": ".*", "write": ".*", "read": ".*"}
NOT_SECRET = "only-allowed-to-write-to-allowed"


def missing() -> str | None:
    """Why there is no RabbitMQ; None if there is."""
    if (SCRIPTS / "rabbitmq-server").exists() and shutil.which("epmd"):
        return None
    return "RABBITMQ IS NOT TESTED: it is not here (Debian: rabbitmq-server)"


class RabbitMqServer:
    """A node, and the port of TLS if it has one."""

    def __init__(self, process: Process, tls_port: int | None) -> None:
        self.process, self.tls_port = process, tls_port

    async def run(self, module: str, function: str, *arguments: str) -> None:
        """Calls a function of the node, as `rabbitmqctl` does, for a hundredth of its work."""
        environment = {**os.environ, **self.process.environment}
        cookie = (self.process.folder / ".erlang.cookie").read_text()
        called = f"{module} {function} [{', '.join(arguments)}]"
        command = (_erl_call(), "-n", environment["RABBITMQ_NODENAME"], "-c", cookie, "-a", called)
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stdout + done.stderr

    async def set_memory_limit(self, share: float) -> None:
        """Of the machine's memory. Beyond it the node takes no messages."""
        await self.run("vm_memory_monitor", "set_vm_memory_high_watermark", f"{share:.6f}")


def _erl_call() -> str:
    return str(next(Path("/usr/lib/erlang").glob("erts-*/bin/erl_call")))


@asynccontextmanager
async def rabbitmq_server(
    folder: Path, definitions: Mapping[str, Any] | None = None, *, certificate: Path | None = None
) -> AsyncIterator[RabbitMqServer]:
    """A node that keeps its messages in `folder`, so that they outlive a kill.

    definitions  exchanges, queues, bindings and policies that it begins with, as `rabbitmqctl import_definitions`
                 takes them
    certificate  with its key, in one file: it also listens with TLS
    """
    port, distribution, mapper, tls_port = (free_port() for _ in range(4))
    (folder / "definitions.json").write_text(json.dumps(_definitions(definitions or {})))
    (folder / "plugins").write_text("[].")
    lines = [
        f"listeners.tcp.1 = 127.0.0.1:{port}",
        f"load_definitions = {folder}/definitions.json",
        "loopback_users = none",
        "log.console.level = warning",
        "log.file = false",
    ]
    if certificate is not None:
        lines += [f"listeners.ssl.1 = 127.0.0.1:{tls_port}", "ssl_options.verify = verify_none"]
        lines += [f"ssl_options.{name} = {certificate}" for name in ("cacertfile", "certfile", "keyfile")]
    (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
    environment = {
        "HOME": str(folder),  # of the cookie
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, so that a signal reaches it
        "RABBITMQ_NODENAME": f"relay{port}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper),
        "ERL_CRASH_DUMP": "/dev/null",
    }
    names = Process(command=("epmd", "-port", str(mapper), "-address", "127.0.0.1"), port=mapper, folder=folder)
    server = Process(command=(str(SCRIPTS / "rabbitmq-server"),), port=port, folder=folder, environment=environment)
    try:
        await names.start()
        await server.start()
        yield RabbitMqServer(server, None if certificate is None else tls_port)
    finally:
        server.kill()
        names.kill()


def _definitions(more: Mapping[str, Any]) -> dict[str, Any]:
    users = [{"name": name, "password": secret, "tags": "administrator"} for name, secret in USERS.items()]
    users.append({"name": "narrow", "password": NOT_SECRET, "tags": ""})
    hosts = ["/", "other/host"]
    permissions = [{"user": user, "vhost": host, **PERMISSIONS} for user in USERS for host in hosts]
    permissions.append({"user": "narrow", "vhost": "/", "configure": "", "write": "allowed", "read": ""})
    begun = {"vhosts": [{"name": host} for host in hosts], "users": users, "permissions": permissions}
    kinds = {"exchanges": [], "queues": [], "bindings": [], "policies": [], "parameters": []}
    return {**begun, **kinds, **more}
