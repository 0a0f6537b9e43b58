"""Every operation of the API. Routes, checks and the OpenAPI description are built from this list."""

from relay.api import (
    deliveries,
    events,
    intents,
    jobs,
    registration,
    replays,
    sources,
    subscription_models,
    subscriptions,
    system,
)

OPERATIONS = (
    *jobs.OPERATIONS,
    *subscriptions.OPERATIONS,
    *replays.OPERATIONS,
    *events.OPERATIONS,
    *deliveries.OPERATIONS,
    *intents.OPERATIONS,
    *sources.OPERATIONS,
    *system.OPERATIONS,
)

EXAMPLES = {
    name: example
    for module in (
        *(
            deliveries,
            events,
            intents,
            jobs,
            registration,
            replays,
            sources,
            subscription_models,
            subscriptions,
            system,
        ),
    )
    for name, example in module.EXAMPLES.items()
}
"""One example of each body and answer, by the name of its model."""
