"""How many bytes a broker may send. A relay only publishes: what comes back are acknowledgements, and messages that no
queue took. More than that is a broker that fills the memory of its clients."""

from collections.abc import Sequence

from relay.core.bus import Message

FIRST_BYTES = 64 * 1024
"""For the handshake, and what a server says by itself."""
MIN_BYTES = 16
"""What reading costs at least: many small frames are work too."""
MESSAGE_BYTES = 4096
"""For the answer to a message, besides its body."""
MAX_BYTES = 32 * 1024 * 1024


class TooMuch(ConnectionError):
    """The broker sends more than it may."""


class Answers:
    """What may still come on one connection."""

    def __init__(self) -> None:
        self._left = FIRST_BYTES

    def expect(self, messages: Sequence[Message]) -> None:
        """Makes room for the answers to messages."""
        room = sum(2 * len(message.body) + MESSAGE_BYTES for message in messages)
        self._left = min(self._left + room, MAX_BYTES)

    def count(self, size: int) -> None:
        """Counts bytes that came, or that a length field announces. Raises TooMuch."""
        self._left -= max(size, MIN_BYTES)
        if self._left < 0:
            raise TooMuch("the broker sends more than the answers to what was published")
