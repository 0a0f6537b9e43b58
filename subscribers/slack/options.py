"""The options of kind `slack`."""

from typing import ClassVar

from pydantic import Field

from subscribers.common.options import DigestOptions
from subscribers.options import Word


class SlackOptions(DigestOptions):
    """Of kind `slack`."""

    places: ClassVar[tuple[str, ...]] = ("channel",)

    channel: Word | None = Field(
        default=None,
        description="With a bot token, which needs it: the id or the name of the channel to post to.",
        examples=["C0123456789"],
    )
