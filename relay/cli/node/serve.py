"""`relay serve`: runs a node until SIGTERM or SIGINT. SIGHUP reads the settings again."""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.options import given, one_of
from relay.cli.output import note
from relay.core.access.netguard import is_loopback_host
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.core.jsontext import dumps
from relay.errors import RelayError, UsageError
from relay.server import sockets

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.node.node import Node
    from relay.server.http_server import Server

ALL_ROLES = ("api", "scheduler", "dispatcher")
DEFAULT_FILE = "relay.yaml"
ALWAYS_SERVED = ("/livez", "/readyz", "/metrics")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file. Default: ./relay.yaml if it exists.")]


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on. 0: any free port.")] = None,
    roles: Annotated[str, typer.Option(help="The roles of this node.")] = ",".join(ALL_ROLES),
    dev: Annotated[
        bool, typer.Option("--dev", help="Allow http sinks on this machine, log for humans, print examples.")
    ] = False,
    auto_migrate: Annotated[
        bool, typer.Option("--auto-migrate", help="Migrate the database first (SQLite: always).")
    ] = False,
) -> None:
    """Run the relay. It polls tracked jobs, delivers their events and serves the API."""
    passed = sockets.passed_sockets(os.environ, os.getpid())
    if passed:
        passed.sort(key=lambda one: is_loopback_host(one.getsockname()[0]))  # what others can reach decides
        host, port = passed[0].getsockname()[:2]
    source = SettingsSource(path=settings_file(config), dev=dev, host=host, port=port)
    chosen = read_roles(roles)

    from relay.node.interpreter import fast_imports

    with fast_imports():
        settings = source.load()
    # Before the rest is imported: connections wait meanwhile, and are not refused.
    listeners = passed or [sockets.listening_socket(settings.server.host, settings.server.port)]
    try:
        with fast_imports():
            import uvloop

            import relay.node.opening
            import relay.server.http_server  # noqa: F401 (what `run` needs)
            from relay import log
            from relay.config.settings import misnamed_variables

        log.configure(dev=dev)
        for line in misnamed_variables(os.environ):
            note(f"relay: {line}")
        uvloop.run(_Service(source, settings, listeners, chosen, auto_migrate, shares_sockets=bool(passed)).run())
    finally:
        for listener in listeners:
            listener.close()


def settings_file(given: Path | None) -> Path | None:
    """The given settings file, else ./relay.yaml if it exists."""
    if given is not None:
        return given
    path = Path(DEFAULT_FILE)
    return path if path.exists() else None


def read_roles(text: str) -> tuple[str, ...]:
    """The roles in a list such as `api,dispatcher`. Raises UsageError for an unknown one."""
    names = [one_of(name.strip(), ALL_ROLES, "role") for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--roles is empty. Known roles are {', '.join(ALL_ROLES)}")
    return tuple(role for role in ALL_ROLES if role in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsSource:
    """The files and the environment that the settings were read from, to read them again."""

    path: Path | None = None
    dev: bool = False
    host: str | None = None
    port: int | None = None

    def load(self) -> "Settings":
        """The current settings. With `--dev` they have this machine's token, if it exists. Raises SettingsError."""
        from relay.config.settings import load_settings, require_strong_access
        from relay.node.local_token import with_local_token

        settings = load_settings(self.path, os.environ, dev=self.dev, host=self.host, port=self.port)
        require_strong_access(settings)
        if settings.subscriptions:
            from relay.node.declared import check_declared

            check_declared(settings.subscriptions)
        return with_local_token(settings, os.environ) if self.dev else settings


@dataclass(slots=True)
class _Service:
    """One run of `relay serve`. `shares_sockets`: another program holds the listening sockets too (`sockets.py`)."""

    source: SettingsSource
    settings: "Settings"
    listeners: list[socket.socket]
    roles: tuple[str, ...]
    auto_migrate: bool
    shares_sockets: bool
    node: "Node | None" = None
    server: "Server | None" = None
    asked_to_stop: bool = False
    reload_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reloads: set[asyncio.Task[None]] = field(default_factory=set)
    leaving: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        """Runs until `stop`."""
        from relay.node.interpreter import raise_file_limit, tune
        from relay.node.local_token import local_token_path, uses_local_token
        from relay.node.opening import open_node
        from relay.server.http_server import KEPT_SECONDS, make_server

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        bound = self._bound()
        url = sockets.url_of(self.listeners[0], bound.server.host)
        async with open_node(bound, base_url=url, roles=self.roles, auto_migrate=self.auto_migrate) as node:
            self.node = node
            app: Any = node if "api" in self.roles else _ProbesOnly(node)
            seconds = bound.server.shutdown_seconds
            self.server = make_server(app, shutdown_seconds=seconds, dates=False, kept_seconds=KEPT_SECONDS)
            if self.asked_to_stop:
                return
            if self.source.dev:
                _print_examples(url, await node.callback_secret(), node.settings.sources)
            else:
                note(f"relay: serving {url}")
                if uses_local_token(node.settings):
                    path = local_token_path(os.environ)
                    note(f"relay: the API accepts the token in {path}. Commands on this machine send it automatically")
            raise_file_limit()
            tune()
            loaded = loop.create_task(_freeze_when_loaded(node))
            sockets.notify(os.environ, sockets.READY)
            watching = loop.create_task(self._report_alive())
            await self.server.serve(sockets=self.listeners)
            watching.cancel()
            if self.leaving is not None:
                await self.leaving
            await loaded

    def stop(self) -> None:
        """The first signal begins an orderly stop; the second cuts off what is in flight."""
        if self.asked_to_stop:
            if self.server is not None:
                self.server.force_exit = self.server.should_exit = True
            if self.node is not None:
                self.node.cut_off()
            return
        self.asked_to_stop = True
        sockets.notify(os.environ, sockets.STOPPING)
        if self.node is None or self.server is None:
            return
        ending = self.node.begin_stop()  # while the server ends its requests: both have the same time
        seconds = self.settings.server.shutdown_seconds
        if self.shares_sockets:
            self.leaving = asyncio.get_running_loop().create_task(self._answer_until(ending, seconds))
        else:
            self.server.stop(seconds)

    async def _answer_until(self, ending: "asyncio.Future[Any]", seconds: float) -> None:
        """Keeps answering while deliveries end, for half of the time at most: connections that come later wait for the
        next process."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        await asyncio.wait([ending], timeout=seconds / 2)
        if self.server is not None:
            self.server.stop(seconds - (loop.time() - began_at))

    async def _report_alive(self) -> None:
        """Tells systemd's watchdog that the event loop turns."""
        seconds = sockets.watchdog_seconds(os.environ, os.getpid())
        while seconds is not None:
            sockets.notify(os.environ, sockets.ALIVE)
            await asyncio.sleep(seconds)

    def _bound(self) -> "Settings":
        """The settings with the bound port, which differs for port 0."""
        server = self.settings.server.replace(port=self.listeners[0].getsockname()[1])
        return self.settings.replace(server=server)

    def reload(self) -> None:
        """Applies the settings that may change at run time. Wrong settings are logged, and the old ones stay."""
        reloading = asyncio.get_running_loop().create_task(self._reload())
        self.reloads.add(reloading)
        reloading.add_done_callback(self.reloads.discard)

    async def _reload(self) -> None:
        import structlog

        from relay.node.local_token import with_local_token

        log = structlog.get_logger("relay.cli")
        if self.node is None:
            return
        try:
            async with self.reload_lock, self.node.audit.writing("settings.reload", actor="SIGHUP") as notes:
                new = self.source.load()
                if not new.dev:
                    new = with_local_token(new, os.environ, has_stored=self.node.access.has_stored)
                await self._apply(self.node, new, notes)
        except RelayError as error:
            log.error("settings_refused", error=str(error), hint="the previous settings stay in use")

    async def _apply(self, node: "Node", new: "Settings", notes: dict[str, Any]) -> None:
        import structlog

        from relay.config.settings import changed_keys, needs_restart, takes_over
        from relay.node.definitions import definition_of

        log = structlog.get_logger("relay.cli")
        restart = needs_restart(self.settings, new)
        taken = takes_over(self.settings, new)
        for name, source in taken.sources.items():
            if source.credits_low != self.settings.sources[name].credits_low:
                definition_of(taken, name)  # refuses it if the source has no credits
        notes["changed"] = changed_keys(self.settings, taken)
        self.settings = taken
        node.reload(self._bound())
        log.info("settings_read_again")
        if restart:
            log.warning("settings_need_a_restart", settings=restart)
        await node.compare_declared()


async def _freeze_when_loaded(node: "Node") -> None:
    from relay.node.interpreter import freeze

    await node.loaded()
    await node.compare_declared()
    freeze()


class _ProbesOnly:
    """Serves only the probes and metrics, on a node without the role `api`."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in ALWAYS_SERVED:
            from starlette.responses import JSONResponse

            problem = {"title": "Not found", "status": 404, "code": "not_found", "detail": "this node has no role api"}
            await JSONResponse(problem, 404, media_type="application/problem+json")(scope, receive, send)
            return
        await self._node(scope, receive, send)


def _print_examples(url: str, secret: str, sources: Mapping[str, Any]) -> None:
    dropins = "".join(
        f"drop-in:          {url}/sources/{name} in place of {source.base_url}\n" for name, source in sources.items()
    )
    one = next(iter(sources)) if len(sources) > 1 and DEFAULT_SOURCE not in sources else None
    job = "'" + dumps(given(id="JOB_ID", source=one)).decode() + "'"
    sink = '\'{"sink": "http://127.0.0.1:3000/hook"}\''
    json = "-H 'Content-Type: application/json'"
    typer.echo(
        f"relay: serving {url}\n"
        f"signing secret: {secret}\n\n"
        f"track a job:      curl -X POST {url}/v1/jobs {json} -d {job}\n"
        f"subscribe:        curl -X POST {url}/v1/subscriptions {json} -d {sink}\n"
        f"watch the events: relay listen   (or curl -N {url}/v1/events/stream)\n"
        f"{dropins}\n"
    )
