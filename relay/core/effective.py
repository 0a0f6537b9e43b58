"""One setting as it is in force. `relay/config` makes these values, the API shows them."""

from dataclasses import dataclass

DEFAULT = "default"
"""The place of a value that was not written anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """A setting with its value and where that comes from.

    key       such as `server.port`; of an entry of a list `auth.tokens[0].name`
    value     a JSON value; None for a secret, unless it is the default
    secret    whether the value may be a secret
    is_set    whether there is a value: it is neither null nor an empty list
    place     `relay.yaml:12`, a variable, an option such as `--port`, or DEFAULT
    reloaded  whether SIGHUP applies a change
    default   the default, as it is written in relay.yaml
    type      the phrase for what it must be
    """

    key: str
    value: object
    secret: bool
    is_set: bool
    place: str
    reloaded: bool
    default: str
    type: str
    meaning: str
