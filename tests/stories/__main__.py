"""Plays a story: `python -m tests.stories campaign`. Exit code 0: everything holds."""

import argparse
import sys
from dataclasses import replace

from relay import log
from relay.cli.demo import INTERRUPTED
from relay.cli.demo.live import run_to_end
from relay.errors import RelayError
from tests.stories import bus, campaign, wired
from tests.stories.story import play

STORIES = {
    "bus": (bus.open_bus, bus.PLAN),
    "campaign": (campaign.open_campaign, campaign.PLAN),
    "wired": (wired.open_wired, wired.PLAN),
}

parser = argparse.ArgumentParser(prog="python -m tests.stories", description=__doc__)
parser.add_argument("story", choices=STORIES)
parser.add_argument("--seed", type=int, default=0, help="of the jobs: the same seed gives the same jobs")
parser.add_argument("--database", metavar="URL", help="postgresql://…: a new database there, dropped at the end")
parser.add_argument("--keep", action="store_true", help="keep serving afterwards, until Ctrl-C")
given = parser.parse_args()
open_story, plan = STORIES[given.story]
log.configure(dev=False, level="error")  # stories have trouble on purpose
try:
    opened = open_story(replace(plan, seed=given.seed, database=given.database))
    sys.exit(0 if run_to_end(lambda: play(opened, keep=given.keep)) else 1)
except RelayError as error:
    sys.exit(f"{given.story}: {error}")
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
