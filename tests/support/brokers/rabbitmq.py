"""A real RabbitMQ, one node of its own, where Debian's package is: else the reason why there is none."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers.process import Process, free_port
from tests.support.system_programs import unpacked_packages

SCRIPT = "usr/lib/rabbitmq/bin/rabbitmq-server"
"""The one in /usr/sbin changes the user and the folder."""
PARTS = (
    *("asn1", "base", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key"),
    *("runtime-tools", "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl"),
)
USERS = {"guest": "guest", "relay": "s3cr3t/%:@ü"}
PERMISSIONS = {"configure": ".*", "write": ".*", "read": ".*"}
NOT_SECRET = "only-allowed-to-write-to-allowed"


def rabbitmq_root() -> Path:
    """Where RabbitMQ and Erlang are: installed, else unpacked for the tests. Skips the test if neither can be had."""
    installed = Path("/")
    if (installed / SCRIPT).exists() and (installed / "usr/lib/erlang").exists():
        return installed
    if " " in sys.prefix:
        pytest.skip("RABBITMQ IS NOT HERE, NOT CHECKED: its scripts cannot be unpacked at a path with a space")
    return unpacked_packages("rabbitmq-server", ["rabbitmq-server", *(f"erlang-{part}" for part in PARTS)])


class RabbitMqServer:
    """A node, and the port of TLS if it has one."""

    def __init__(self, process: Process, tls_port: int | None, programs: Path) -> None:
        self.process, self.tls_port, self._programs = process, tls_port, programs

    async def run(self, module: str, function: str, *arguments: str) -> None:
        """Calls a function of the node, as `rabbitmqctl` does, for a hundredth of its work."""
        environment = {**os.environ, **self.process.environment}
        cookie = (self.process.folder / ".erlang.cookie").read_text()
        called = f"{module} {function} [{', '.join(arguments)}]"
        command = (str(self._programs / "erl_call"), "-n", environment["RABBITMQ_NODENAME"], "-c", cookie, "-a", called)
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    async def set_memory_limit(self, share: float) -> None:
        """Of the machine's memory. Beyond it the node takes no messages."""
        await self.run("vm_memory_monitor", "set_vm_memory_high_watermark", f"{share:.6f}")


@asynccontextmanager
async def rabbitmq_server(
    root: Path, folder: Path, definitions: Mapping[str, Any] | None = None, *, certificate: Path | None = None
) -> AsyncIterator[RabbitMqServer]:
    """A node that keeps its messages in `folder`, so that they outlive a kill.

    root         see `rabbitmq_root`
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
        "PATH": f"{_own_erl(root, folder)}:{os.environ['PATH']}",
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
    (programs,) = (root / "usr/lib/erlang").glob("erts-*/bin")
    names = Process(
        command=(str(programs / "epmd"), "-port", str(mapper), "-address", "127.0.0.1"), port=mapper, folder=folder
    )
    server = Process(command=(str(root / SCRIPT),), port=port, folder=folder, environment=environment)
    try:
        await names.start()
        await server.start()
        yield RabbitMqServer(server, None if certificate is None else tls_port, programs)
    finally:
        server.kill()
        names.kill()


def _own_erl(root: Path, folder: Path) -> Path:
    """A folder with the program `erl`, for an Erlang that is not where it was built for."""
    (programs,) = (root / "usr/lib/erlang").glob("erts-*/bin")
    erl = folder / "bin" / "erl"
    erl.parent.mkdir()
    erl.write_text(
        f"#!/bin/sh\nexport ROOTDIR={root / 'usr/lib/erlang'} BINDIR={programs} EMU=beam PROGNAME=erl\n"
        'exec "$BINDIR/erlexec" "$@"\n'
    )
    erl.chmod(0o755)
    return erl.parent


def _definitions(more: Mapping[str, Any]) -> dict[str, Any]:
    users = [{"name": name, "password": secret, "tags": "administrator"} for name, secret in USERS.items()]
    users.append({"name": "narrow", "password": NOT_SECRET, "tags": ""})
    hosts = ["/", "other/host"]
    permissions = [{"user": user, "vhost": host, **PERMISSIONS} for user in USERS for host in hosts]
    permissions.append({"user": "narrow", "vhost": "/", "configure": "", "write": "allowed", "read": ""})
    begun = {"vhosts": [{"name": host} for host in hosts], "users": users, "permissions": permissions}
    kinds = {"exchanges": [], "queues": [], "bindings": [], "policies": [], "parameters": []}
    return {**begun, **kinds, **more}
