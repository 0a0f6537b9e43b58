"""revor-relay: turns a pull-only job API into a push API."""

__version__ = "0.2.0"
