"""`relay demo`: sandbox, relay and receiver on loopback, in a temporary folder, with figures at the end."""

import math
from typing import Annotated, Literal

import typer

from relay.cli.options import read_rate_limit

INTERRUPTED = 130


def demo(
    jobs: Annotated[int, typer.Option(min=1, max=1000, help="Number of jobs to dispatch.")] = 20,
    speed: Annotated[float, typer.Option(min=1, max=1000, help="Divisor of every duration.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the jobs. The same seed gives the same jobs.")] = 0,
    rate_limit: Annotated[
        str, typer.Option(metavar="N/SECONDS", help="Reads of jobs that the upstream allows, at speed 1.")
    ] = "120/60",
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql://…: use a new database on that server, dropped at the end."),
    ] = None,
    compare: Annotated[
        Literal["naive"] | None,
        typer.Option(help="Run the same jobs again with a plain 5 s poller. Takes twice as long."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object on the last line.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep serving afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run a demo on this machine. It has a stand-in upstream, the relay, and a receiver that verifies every event.

    It needs no account and leaves nothing behind. Exit code 0: nothing lost, out of order or unverified.
    """
    if not math.isfinite(speed):
        raise typer.BadParameter("must be a number from 1 to 1000", param_hint="--speed")
    limit = read_rate_limit(rate_limit)

    from relay import log
    from relay.cli.demo import live
    from relay.cli.demo.environment import Plan

    log.configure(dev=False, level="warning")
    plan = Plan(jobs=jobs, speed=speed, seed=seed, rate_limit=limit, database=database)
    try:
        report = live.run(plan, compare=compare is not None, as_json=as_json, keep=keep)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not report.ok:
        raise typer.Exit(1)
