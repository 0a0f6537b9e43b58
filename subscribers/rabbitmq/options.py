"""The settings of protocol AMQP."""

from typing import Annotated, Literal

from pydantic import Field

from subscribers.common.options import BrokerSettings, Template
from subscribers.options import Cli, Setting


class RabbitMqSettings(BrokerSettings):
    """Of kind `rabbitmq`."""

    address: Template = Field(
        description="`/queues/NAME` or `/exchanges/NAME/ROUTING-KEY`, percent-encoded. It may be a template.",
        examples=["/exchanges/jobs/{{ event.channel }}"],
    )
    linkname: Annotated[Setting | None, Cli("link_name")] = Field(
        default=None, description="The name of the connection. Default: revor-relay.", examples=["crm"]
    )
    sendersettlementmode: Literal["unsettled"] | None = Field(
        default=None, description="`unsettled`, the only one: an event is delivered once it is confirmed."
    )
