"""The settings of protocol KAFKA."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from subscribers.common.options import BrokerSettings, Template
from subscribers.options import Cli, Setting


def _ack_mode(value: object) -> object:
    return "all" if value == -1 and not isinstance(value, bool) else value


class KafkaSettings(BrokerSettings):
    """Of kind `kafka`."""

    topicname: Annotated[Template, Cli("topic")] = Field(
        description="The topic. It may be a template.", examples=["jobs.{{ event.channel }}"]
    )
    partitionkeyextractor: Annotated[Template | None, Cli("key")] = Field(
        default=None,
        description="A template of the key of each record. Default: the event's `partitionkey`.",
        examples=["{{ event.account }}"],
    )
    clientid: Annotated[Setting | None, Cli("client_id")] = Field(
        default=None, description="The name of the client. Default: revor-relay.", examples=["crm"]
    )
    ackmode: Annotated[Literal["all"], BeforeValidator(_ack_mode)] | None = Field(
        default=None,
        description="`all` or -1, the only one: an event is delivered once all in-sync replicas have it.",
        json_schema_extra={"anyOf": [{"enum": ["all", -1]}, {"type": "null"}]},
    )
    saslmechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, Cli("sasl_mechanism")] = Field(
        default=None,
        description="For a credential of type PLAIN: `PLAIN` (default), `SCRAM-SHA-256` or `SCRAM-SHA-512`.",
        examples=["SCRAM-SHA-512"],
    )
