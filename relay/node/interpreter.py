"""Interpreter settings of a serving process: garbage collection, thread switching, open files.

They change how fast the relay runs, not what it does.
"""

import contextlib
import gc
import resource
import sys
from collections.abc import Iterator

SWITCH_INTERVAL_SECONDS = 0.001
GC_THRESHOLDS = (50_000, 20, 100)
OPEN_FILES = 65_536
"""A waiting client uses one file and a forwarded request two; most systems start a process with a limit of 1,024."""


def tune() -> None:
    """Call once everything long-lived is loaded.

    Freezing spares the collector from walking those objects again and again: with many open jobs that costs a fifth of
    a delivery. The short switch interval lets the writer thread run within a millisecond instead of five; the event
    loop waits for its commits.
    """
    freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def freeze() -> None:
    """Exempts all present objects from garbage collection. Does not collect first: with a million jobs that would
    block the loop for a second, and after the imports it frees one object in a hundred."""
    gc.freeze()


def raise_file_limit() -> None:
    """Raises the soft limit on open files to OPEN_FILES, or as far as the hard limit permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems enforce a lower limit than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """For the imports of a start: without garbage collection (an eighth of the time), and without rich, which structlog
    imports for tracebacks that the relay never renders with it (a twentieth)."""
    gc.disable()
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` raise ImportError
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rich"]
        freeze()  # else the next collection walks everything that was imported
        gc.enable()
