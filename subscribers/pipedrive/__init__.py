"""Pipedrive: a note or an activity on the deal, person or lead that an event is about, written once.

`dialogue.py` delivers: `render.py` makes the records, `requests.py` the requests, `answers.py` judges the answers,
`relay/core/deliveries/ledger.py` remembers the records.
"""

from relay.core.deliveries.dialogue import Steps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base
from subscribers.base import Dialogue
from subscribers.common import crm, templates
from subscribers.pipedrive.dialogue import COMPANY_HOST, CREATING, DIALOGUE, creates, greeting, portal_of
from subscribers.pipedrive.options import FIELDS, PipedriveOptions, record_of

_EXAMPLE = "https://COMPANY.pipedrive.com"
_NEEDED = (
    "an API token (Pipedrive: Personal preferences, API) or the REFRESHTOKEN of an app is needed: "
    '{"credentialtype": "ACCESSTOKEN", "accesstoken": "…"}'
)


class Pipedrive(crm.Crm):
    """Notes or activities for people who sell."""

    name = "pipedrive"
    title = "Pipedrive"
    offer = base.Offer(
        words="The deal or person gets a note or an activity.",
        address="The address of your company, as Pipedrive shows it in your browser.",
        example="https://acme.pipedrive.com",
        website="{origin}",
    )
    by_name = base.ByName(
        token="API token (Pipedrive: Personal preferences, API)",  # noqa: S106  (no token)
        home="https://{domain}.pipedrive.com",
        names="deal_id, lead_id, person_id, email or phone",
        example='{"deal_id": 7}',
        domain="company, such as acme of https://acme.pipedrive.com",
    )
    options = PipedriveOptions
    rate_per_second = 5.0
    """Half of the limit of the smallest plan: a delivery has up to four requests, and searches have a limit of 5."""

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Another URL than a company's, another credential than a token, and unknown options and fields."""
        errors, host = crm.common_errors(subscription, "Pipedrive", _EXAMPLE), host_of(subscription.sink)
        if host.endswith("pipedrive.com") and not COMPANY_HOST.fullmatch(host):
            detail = f"this is not the address of a company: use {_EXAMPLE}, as Pipedrive shows it in your browser"
            errors.append(base.sink_unsuitable(detail))
        credential = subscription.credential
        is_header = credential is not None and credential.type == "HEADER"
        if credential is None or not is_header or credential.fields["name"].lower() != "x-api-token":
            errors += crm.credential_error(subscription, ("ACCESSTOKEN", "REFRESHTOKEN"), _NEEDED)
        errors += crm.unknown_names(subscription, FIELDS[record_of(subscription)])
        return errors + templates.template_errors(PipedriveOptions.of(subscription))

    def records(self, options: PipedriveOptions) -> str:
        """See `Crm`."""
        return "an activity" if options.record == "activity" else "a note"

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """All deliveries: the target is looked up, and the record is written once."""
        return CREATING if creates(subscription) else DIALOGUE

    def portal(self, subscription: Subscription) -> str | None:
        """The company: its host or, where companies share one, the credential."""
        return portal_of(subscription)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Asks whose token it is."""
        return greeting(subscription, now)
