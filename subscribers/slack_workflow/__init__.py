"""Workflows of Slack that start from a webhook: one flat JSON object of texts, one for each variable of the workflow.

Sources: Slack's help pages about workflows that start from a webhook (at most 20 variables, all of them top-level), its
documentation of webhook triggers, and of `WebhookTrigger` in its Node SDK (`{"ok": …, "error": …}`).
"""

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import split_url
from subscribers import base
from subscribers.common import chat
from subscribers.common.answers import code_in, read_object, reason, refusal
from subscribers.common.markdown import disarmed
from subscribers.common.options import ChatOptions
from subscribers.flat.render import fields as flat_fields
from subscribers.slack.render import without_marks
from subscribers.wording import advice
from subscribers.wording.jobs import job_details
from subscribers.wording.text import Pairs, one_line

_VALUE_CHARACTERS = 1000
_SHOWN = ("type", "status", "job_id", "channel", "account", "group", "error_code", "request_id")
"""Fields of kind `flat` that become variables under the same name."""
_NOTHING = "-"
"""The text of a variable that says nothing: a workflow does not start if one that it asks for is missing."""


class SlackWorkflow(chat.ForPeople):
    """One run of the workflow per event."""

    name = "slack_workflow"
    title = "Slack"
    offer = base.Offer(
        name="Slack workflow",
        words="Each event starts a workflow of yours in Slack.",
        address="The URL of the workflow’s trigger: in Slack under Tools, Workflow Builder, From a webhook.",
        example="https://hooks.slack.com/triggers/T000/0000/XXXX",
    )
    gets = "The workflow in Slack runs once"

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Among them the URLs of incoming webhooks."""
        errors = base.chat_errors(subscription, "Slack")
        parts = split_url(subscription.sink)
        if parts is not None and parts.path.startswith("/services/"):
            detail = "this is an incoming webhook, which starts no workflow: use the kind slack"
            errors.append(base.sink_unsuitable(detail))
        return errors

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The variables. All of them are there in every event, and none is empty."""
        known, options = flat_fields(event, context), ChatOptions.of(subscription)
        message = chat.message(event, subscription, context)
        variables = {
            "sentence": message.sentence,
            "what_to_do": _lines(advice(event, context)),
            "details": _lines(job_details(event, options.metadata_keys)),
            **{name: one_line(known[name]) for name in _SHOWN},
            "time": dict(message.place)["Time"],
            "event_id": one_line(event.id),
        }
        texts = {name: chat.fitted(text, _VALUE_CHARACTERS, _plain) or _NOTHING for name, text in variables.items()}
        return chat.post(subscription.sink, {**texts, "link": message.link.url if message.link else _NOTHING})

    def classify(self, response: Response, now: float) -> Outcome:
        """2xx is success unless the body says `"ok": false`. 400: the workflow asks for other variables. 401, 403, 404
        and 410: the trigger is gone, or the workflow is not published."""
        status = response.status_code
        if response.error is not None or status is None:
            return http_outcome(response, now)
        answer = read_object(response.excerpt) or {}
        code = code_in(answer, "error")
        if 200 <= status < 300 and answer.get("ok") is False:
            return Outcome(verdict="dead", reason=reason(status, code or "not ok"))
        return refusal(status, code) or http_outcome(response, now)


def _lines(pairs: Pairs) -> str:
    return "\n".join(f"{label}: {text}" for label, text in pairs)


def _plain(text: str) -> str:
    """Text that is shown literally where a workflow puts it into a message."""
    return "\n".join(without_marks(disarmed(line)).replace("<", "<\u2060") for line in text.split("\n"))
