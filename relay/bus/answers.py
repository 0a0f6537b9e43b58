"""Limits how many bytes a broker may send. The relay only publishes, so a broker answers with acknowledgements and
unroutable messages. A broker that sends more would fill the node's memory."""

from collections.abc import Sequence

from relay.core.deliveries.broker import Message

FIRST_BYTES = 64 * 1024
"""Allowance for the handshake and for unsolicited frames of the server."""
MIN_BYTES = 16
"""Minimum count per read: many small frames cost time too."""
MESSAGE_BYTES = 4096
"""Allowance for the answer to one message, besides its body."""
MAX_BYTES = 32 * 1024 * 1024


class TooMuch(ConnectionError):
    """The broker sent more bytes than its allowance."""


class Answers:
    """The remaining byte allowance of one connection."""

    def __init__(self) -> None:
        self._left = FIRST_BYTES

    def expect(self, messages: Sequence[Message]) -> None:
        """Adds the allowance for the answers to messages."""
        room = sum(2 * len(message.body) + MESSAGE_BYTES for message in messages)
        self._left = min(self._left + room, MAX_BYTES)

    def count(self, size: int) -> None:
        """Counts bytes that were received, or that a length field announces. Raises TooMuch."""
        self._left -= max(size, MIN_BYTES)
        if self._left < 0:
            raise TooMuch("the broker sends more than the answers to what was published")
