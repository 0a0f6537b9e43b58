"""What is set once for a process that serves: how the interpreter works, not what the relay does."""

import contextlib
import gc
import resource
import sys
from collections.abc import Iterator

SWITCH_INTERVAL_SECONDS = 0.001
COLLECTED_AFTER = (50_000, 20, 100)
OPEN_FILES = 65_536
"""Each client that waits holds one, and each request that is passed on two; most systems start a process with 1,024."""


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


def allow_connections() -> None:
    """Raises the limit on open files as far as the process may by itself, where it is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system may have a lower one that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """For imports: they make much that lasts, and to go through it in search of garbage takes an eighth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep() -> None:
    """What was loaded since lasts as well. Without a collection, which would hold up everything for a second where a
    million jobs were loaded."""
    gc.freeze()
