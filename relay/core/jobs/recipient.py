"""The recipient of a create, if `proxy.capture` keeps it. Values only; nothing shown, logged or stored in clear
contains one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PARTS = ("address", "profile_url", "phone")
"""The parts of a recipient that can be captured."""
MAX_CHARACTERS = 320
"""Maximum characters of a part. An e-mail address has at most 320 (RFC 3696, erratum 1690)."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The captured parts of a create's recipient; None: not given, or not captured."""

    address: str | None = field(default=None, repr=False)
    profile_url: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Recipient | None":
        """The recipient with the parts that can be kept; None if none can."""
        kept = {name: part for name in PARTS if (part := part_of(values.get(name))) is not None}
        return cls(**kept) if kept else None

    def document(self) -> dict[str, str]:
        """The parts that are present, as input for `of`."""
        parts = ((name, getattr(self, name)) for name in PARTS)
        return {name: part for name, part in parts if part is not None}

    def shown(self) -> "Recipient":
        """The recipient with a placeholder, such as `{recipient.address}`, in place of each part: for display."""
        return Recipient(**{name: f"{{recipient.{name}}}" for name in self.document()})


ANYBODY = Recipient(**dict.fromkeys(PARTS, "-")).shown()
"""Placeholders for every part."""


def part_of(value: object) -> str | None:
    """A part as it is kept: a line of printable text. None for any other value, for repaired text, and for text that
    looks like a placeholder: these name no person."""
    if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
        return None
    text = value.strip()
    names = text.isprintable() and _REPLACEMENT not in text and not text.startswith("{")
    return text if text and names else None
