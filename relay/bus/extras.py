"""Clients of brokers are extras: imported when first needed."""

import logging
from importlib import import_module
from types import ModuleType

from relay.bus.publishers import CannotConnect


def needed(module: str, extra: str) -> ModuleType:
    """A module of an extra. Raises CannotConnect if it is not installed."""
    logging.getLogger(module.partition(".")[0]).setLevel(logging.CRITICAL)  # what fails is in the attempts
    try:
        return import_module(module)
    except ImportError:
        detail = f"this node needs an extra package: pip install 'revor-relay[{extra}]'"
        raise CannotConnect("extra_missing", detail) from None
