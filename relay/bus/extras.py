"""Clients of brokers are extras: imported when first needed."""

import logging
from importlib import import_module
from types import ModuleType

from relay.bus.publishers import CannotConnect
from relay.installation import install_command


def needed(module: str, extra: str) -> ModuleType:
    """A module of an extra. Raises CannotConnect if it is not installed."""
    logging.getLogger(module.partition(".")[0]).setLevel(logging.CRITICAL)  # attempts record the errors
    try:
        return import_module(module)
    except ImportError:
        detail = f"this node needs the extra {extra}: {install_command(extra)}"
        raise CannotConnect("extra_missing", detail) from None
