"""What is set once for a process that serves: how the interpreter works, not what the relay does."""

import gc
import sys

SWITCH_INTERVAL_SECONDS = 0.0005
COLLECTED_AFTER = (50_000, 20, 100)


def settle() -> None:
    """To be called when everything that lasts has been loaded.

    What is there now is never garbage, so the collector need not walk through it again and again: with many open jobs
    that costs a fifth of a delivery. The thread that writes is let to the interpreter within half a millisecond, not
    five: it asks for it after every statement, and the loop waits for its commits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def keep() -> None:
    """What was loaded since lasts as well. Without a collection, which would hold up everything for a second where a
    million jobs were loaded."""
    gc.freeze()
