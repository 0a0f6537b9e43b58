"""Salesforce: a record for each event, made or updated by its external id, and linked to the person and the deal that
the event is about.

The record is a `Job_Event__c`, which `deploy/salesforce` defines, or a Task. `dialogue.py` delivers: `render.py` makes
the fields, `requests.py` the requests, `answers.py` judges the answers.
"""

import re
from urllib.parse import urlsplit

from relay.core.deliveries.credentials import origin_text
from relay.core.deliveries.dialogue import Steps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base
from subscribers.common import crm, templates
from subscribers.salesforce.answers import KEY_FIELD
from subscribers.salesforce.dialogue import DIALOGUE, greeting
from subscribers.salesforce.options import SalesforceOptions
from subscribers.salesforce.render import JOB_EVENT, LINKS, TASK

TOKEN_PATH = "/services/oauth2/token"  # noqa: S105  (a path)

_FIELD = re.compile(r"[A-Za-z](?:_{0,2}[A-Za-z0-9]){0,79}")
_LOGIN_HOSTS = ("login.salesforce.com", "test.salesforce.com")
_MY_DOMAIN = "https://NAME.my.salesforce.com"
_WHERE = f"{_MY_DOMAIN} (Setup, My Domain)"
_NEEDED = (
    'an access token or an external client app is needed: {"credentialtype": "CLIENTCREDENTIALS", "token_url": '
    f'"{_MY_DOMAIN}{TOKEN_PATH}", "client_id": "…", "client_secret": "…"}}'
)


class Salesforce(crm.Crm):
    """A record per event."""

    name = "salesforce"
    title = "Salesforce"
    offer = base.Offer(
        words="The contact or lead gets a record of the outcome.",
        address="The address of your org: in Salesforce under Setup, My Domain.",
        example="https://acme.my.salesforce.com",
        website="{origin}",
    )
    by_name = base.ByName(
        token="consumer secret of the external client app, whose Run As user has the permissions",  # noqa: S106
        home="https://{domain}.my.salesforce.com",
        names="contact_id, lead_id, deal_id, email or phone",
        example='{"email": "jane@example.com"}',
        domain="My Domain, such as acme of https://acme.my.salesforce.com",
        token_path=TOKEN_PATH,
    )
    options = SalesforceOptions

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Another sink than the base URL of an org, another token endpoint than that of this org, and options with
        mistakes."""
        errors = crm.common_errors(subscription, "Salesforce", _WHERE)
        host, options = host_of(subscription.sink), SalesforceOptions.of(subscription)
        if host in _LOGIN_HOSTS or host.endswith(".lightning.force.com"):
            errors.append(base.sink_unsuitable(f"{host} has no API: use {_WHERE}"))
        own = ("Id", "attributes", KEY_FIELD, *LINKS[TASK if options.of_records == TASK else JOB_EVENT].values())
        errors += [*_credential_errors(subscription), *templates.template_errors(options)]
        return errors + crm.field_errors(templates.POINTER, options.template or {}, own, _FIELD, "Status__c")

    def records(self, options: SalesforceOptions) -> str:
        """See `Crm`."""
        return f"a record of {options.of_records}"

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Look-ups, then the record."""
        return DIALOGUE

    def portal(self, subscription: Subscription) -> str | None:
        """The org, by its host: the limits of a day are the org's."""
        return host_of(subscription.sink)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Asks for the API's versions, the object, and a person, all of which the deliveries need."""
        return greeting(subscription, now)


def _credential_errors(subscription: Subscription) -> list[FieldError]:
    credential = subscription.credential
    if credential is None or credential.type != "CLIENTCREDENTIALS" or (url := credential.token_url) is None:
        return crm.credential_error(subscription, ("ACCESSTOKEN", "CLIENTCREDENTIALS", "REFRESHTOKEN"), _NEEDED)
    if origin_text(url) == credential.origin and urlsplit(url).path == TOKEN_PATH:
        return []
    detail = f"the token is valid in the org that issues it only: use {subscription.sink.rstrip('/')}{TOKEN_PATH}"
    return [FieldError(pointer="/sinkcredential/token_url", code="credential_unsuitable", detail=detail)]
