"""The options of kind `webhook`."""

from typing import Annotated, Literal, Self

from pydantic import Field

from subscribers.common.options import TemplateOptions
from subscribers.options import Cli, Options, Whole

MAX_BATCH_EVENTS = 1_000
MAX_BATCH_SECONDS = 900.0


class Batch(Options):
    """The limits at which a batch is sent."""

    max_events: Annotated[Whole, Field(ge=1, le=MAX_BATCH_EVENTS)] = Field(
        default=100, description="Events in a batch.", examples=[50]
    )
    max_seconds: float = Field(
        default=5.0,
        ge=0,
        le=MAX_BATCH_SECONDS,
        description="The longest time that an event waits for others.",
        examples=[2.5],
    )


class WebhookOptions(TemplateOptions):
    """Of kind `webhook`."""

    content_mode: Literal["structured", "binary", "batch"] = Field(
        default="structured",
        description="`structured`: one event, as JSON. `binary`: its attributes as headers, which the signature does "
        "not cover, and its data as the body. `batch`: a JSON array of events.",
        examples=["batch"],
    )
    batch: Annotated[Batch | None, Cli(metavar="EVENTS,SECONDS")] = Field(
        default=None,
        description="For content mode `batch`: the maximum events and seconds of a batch.",
        examples=[{"max_events": 100, "max_seconds": 5}],
    )

    def limits(self) -> Batch | None:
        """The limits at which a batch is sent; None in another mode."""
        return Batch.model_validate(self.batch or {}) if self.content_mode == "batch" else None

    def shown(self) -> Self:
        """With the limits of a batch in place of their absence."""
        return self.model_copy(update={"batch": self.limits()})
