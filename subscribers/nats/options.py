"""The settings of protocol NATS."""

from pydantic import Field

from subscribers.common.options import BrokerSettings, Template


class NatsSettings(BrokerSettings):
    """Of kind `nats`."""

    subject: Template = Field(
        description="The subject, which a stream of JetStream has. It may be a template.",
        examples=["jobs.{{ event.channel }}"],
    )
