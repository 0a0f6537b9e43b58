"""The likely cause of a failed delivery and its fix, in words: from an attempt as the API shows it, or from the reason
of a delivery. Pure."""

from collections.abc import Mapping
from typing import Any

LIKELY_CAUSES = {
    "dns": "the receiver's host name does not resolve. Check the name, and DNS on the relay's machine.",
    "connect": "the connection is refused. Check that the receiver runs and that no firewall blocks it.",
    "unreachable": "the host does not answer. Check that it is up and that no firewall drops the packets.",
    "tls": "the receiver's certificate does not verify. Renew it, or send its whole chain. Verification is always on.",
    "timeout": "the receiver is too slow. Let it answer 2xx before it works, or raise config.timeout_seconds.",
    "refused": "the relay may not send there. The error names the rule, and the setting that allows it.",
    "proxy": "the relay's egress proxy made no connection. Check security.egress_proxy, and the proxy's log and rules.",
    "read": "the connection was lost. Check the log of the receiver, or of a proxy in front of it.",
    "protocol": "the answer is not valid HTTP. Check the port.",
    "render": "the relay cannot make a message of this event. Please report it, with the error in the log.",
    "extra_missing": "the node that sends lacks an extra. Its log and the error have the command that installs it.",
    "cancelled": "the relay was shutting down. There is nothing to do.",
    "unsent": "the requests before it took all of config.timeout_seconds. Raise it if that happens again.",
    "no_stream": "no stream of JetStream has this subject. Add one that has it.",
    "unroutable": "no queue is bound for this routing key. Bind one.",
    "unknown_topic": "the topic does not exist. Make it, or let the broker make topics.",
    "unknown_exchange": "the exchange does not exist. Declare it.",
    "denied": "the credential may not write there. Grant it, or set another sinkcredential.",
    "credential": "there is no valid credential. Set the sinkcredential again.",
    "too_large": "the broker takes no message of this size. Raise its limit, then send it again.",
    "nack": "the broker did not store the message. Check its log.",
    "behind": "an earlier event of its job or key was not acknowledged. Look at that one.",
    "3xx": "the receiver redirects, and redirects are not followed. Set its new URL in the subscription.",
    "401": "the receiver rejects the signature or credentials. Check the secret or credential of both sides.",
    "404": "the receiver's URL does not accept these requests. Check the URL.",
    "410": "the receiver reports that it is gone. Bring it back, then resume the subscription.",
    "413": "the event is too large for the receiver, or for a proxy in front of it.",
    "429": "the receiver limits the rate. The relay waits for as long as it asks.",
    "4xx": "the receiver refuses the request. Check its answer and its log.",
    "5xx": "the receiver fails. Fix it: its log says what is wrong.",
}
BROKER_CAUSES = {
    "connect": "the broker takes no connections. Check that it runs, and the host and port of the receiver.",
    "timeout": "the broker did not acknowledge in time. Check its load and its log, or raise config.timeout_seconds.",
    "tls": "TLS fails. Check the broker's certificate and its authority, and that this port speaks TLS.",
    "read": "the connection was lost. Check the broker's log.",
    "protocol": "the receiver does not speak the protocol of its kind. Check its port.",
    "blocked": "the broker has too little memory or disk. `rabbitmqctl status` lists the alarm.",
}
"""Causes for messages to a broker. They take precedence over `LIKELY_CAUSES`."""
_LIKE = {"403": "401", "405": "404"}


def likely_cause(attempt: Mapping[str, Any]) -> str | None:
    """The likely cause of a failed attempt; None if none is known."""
    status = attempt.get("status_code")
    if status is not None:
        return _of_status(str(status))
    word = str(attempt.get("error") or "").partition(":")[0]
    if "destination" in (attempt.get("request_headers") or {}) and word in BROKER_CAUSES:
        return BROKER_CAUSES[word]
    timings = attempt.get("timings") or {}
    if word == "timeout" and timings.get("first_byte_ms") is None:
        word = "unreachable" if timings.get("connect_ms") is not None else "dns"
    return LIKELY_CAUSES.get(word) or BROKER_CAUSES.get(word)  # without write access there are no request_headers


def cause_of_reason(reason: str | None) -> str | None:
    """The likely cause behind a reason that deliveries ended with or wait for, such as `http_503`; None if none is
    known."""
    name, _, status = (reason or "").partition("_")
    return _of_status(status) if name == "http" else LIKELY_CAUSES.get(str(reason).partition(":")[0])


def _of_status(status: str) -> str | None:
    return LIKELY_CAUSES.get(_LIKE.get(status, status)) or LIKELY_CAUSES.get(f"{status[:1]}xx")
