"""Every operation of the API. Routes, checks and the OpenAPI description are built from this list."""

from relay.api.routes_events import EVENTS
from relay.api.routes_intents import INTENTS
from relay.api.routes_jobs import JOBS
from relay.api.routes_replays import REPLAYS
from relay.api.routes_subscriptions import SUBSCRIPTIONS
from relay.api.routes_system import SYSTEM

OPERATIONS = (*JOBS, *SUBSCRIPTIONS, *REPLAYS, *EVENTS, *INTENTS, *SYSTEM)
