"""HubSpot: sets properties of a job's contact and deal, adds a note to their timeline, and a task for a failure.

`dialogue.py` delivers: `render.py` makes the content, `requests.py` the requests; `answers.py` reads the answers.
"""

from relay.core.deliveries.dialogue import Steps
from relay.core.events.sentences import enumerated
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from subscribers import base
from subscribers.common import crm
from subscribers.hubspot.dialogue import DIALOGUE, greeting, portal_of
from subscribers.hubspot.options import NOTE, PROPERTIES, TASK, HubSpotOptions
from subscribers.hubspot.render import record_errors

_SINK = "https://api.hubapi.com"
_SAID = {PROPERTIES: "properties of the contact and the deal", NOTE: "a note", TASK: "after a failure a task"}
_NEEDED = (
    "a service key is needed (HubSpot: Development, Keys, Service keys): "
    '{"credentialtype": "ACCESSTOKEN", "accesstoken": "pat-…"}'
)


class HubSpot(crm.Crm):
    """Writes the outcome of a job to its contact and its deal."""

    name = "hubspot"
    title = "HubSpot"
    offer = base.Offer(
        words="The contact and the deal get the outcome, a note, and a task after a failure.",
        address="HubSpot’s API, which is the same for every account.",
        example="https://api.hubapi.com",
        website="https://app.hubspot.com",
    )
    by_name = base.ByName(
        token="service key (HubSpot: Development, Keys, Service keys)",  # noqa: S106  (no token)
        home=_SINK,
        names="contact_id, deal_id or email",
        example='{"email": "jane@example.com"}',
    )
    hosts = r"api(-[a-z0-9]{1,10})?\.hubapi\.com"
    options = HubSpotOptions
    rate_per_second = 2.5
    """HubSpot's lowest limit is 100 requests in 10 seconds, and an event takes up to four."""

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """URLs with a path, settings that HubSpot ignores, invalid options, and a missing token."""
        token = crm.credential_error(subscription, ("ACCESSTOKEN", "REFRESHTOKEN"), _NEEDED)
        return [*crm.common_errors(subscription, "HubSpot", _SINK), *token, *record_errors(subscription)]

    def records(self, options: HubSpotOptions) -> str:
        """See `Crm`."""
        return enumerated([_SAID[one] for one in options.of_records])

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Always."""
        return DIALOGUE

    def portal(self, subscription: Subscription) -> str | None:
        """See `portal_of`: HubSpot counts the requests of each token."""
        return portal_of(subscription)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Reads the account, and reads or creates the properties that deliveries need."""
        return greeting(subscription, now)
