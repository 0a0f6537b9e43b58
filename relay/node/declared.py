"""The declared subscriptions of the settings: checked, and compared with those in the database."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from relay.api.http.dependencies import ApiDependencies
from relay.api.http.operations import Context
from relay.api.http.validation import under, validate
from relay.api.subscriptions.declared import SubscriptionsApply, planned
from relay.api.subscriptions.models import DeclaredSubscription
from relay.clock import Clock
from relay.config.declared import Declared, mistake
from relay.config.settings import Settings
from relay.core.subscriptions.declared import Change
from relay.errors import FieldError, InvalidRequest, SettingsError, StoreError
from relay.node.accounts import adopted_accounts
from relay.node.component_settings import ComponentSettings
from relay.node.definitions import definitions_of, with_base_urls
from relay.proxy.types import with_adopted

if TYPE_CHECKING:
    from relay.node.audit import AuditLog
    from relay.store.store import Store

OF_A_NODE = (
    *("access", "tracking", "signals", "dispatcher", "pulls", "node", "forecasts", "dial", "unresolved"),
    *("count_request", "published"),
)
"""Parts of the API that only a running node has. A command on the database itself works without them."""
MAX_NAMED = 3
"""Maximum number of mistakes that one error names."""

log = structlog.get_logger("relay.node")


def check_declared(entries: Sequence[Declared]) -> None:
    """Raises SettingsError, with file and line, if an entry does not have the shape of a subscription. What depends on
    the rest of the relay is checked when they are applied."""
    with as_settings(entries):
        for index, entry in enumerate(entries):
            with under("subscriptions", index):
                validate(DeclaredSubscription, entry.document)


@contextmanager
def as_settings(entries: Sequence[Declared]) -> Iterator[None]:
    """Raises what the API refuses inside as a SettingsError, with file and line."""
    try:
        yield
    except InvalidRequest as error:
        raise wrong(entries, error.errors) or error from None


def wrong(entries: Sequence[Declared], errors: Sequence[FieldError]) -> SettingsError | None:
    """An error that names mistakes in declared subscriptions with file and line; None if none is in one of them."""
    found = [one for one in errors if one.pointer.startswith("/subscriptions/")]
    if not found:
        return None
    texts = [str(mistake(entries, one.pointer, one.detail)) for one in found[:MAX_NAMED]]
    more = f"; and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return SettingsError("; ".join(texts) + more)


def body_of(settings: Settings, *, dry_run: bool, prune: bool, cancel_pending: bool = False) -> SubscriptionsApply:
    """The declared subscriptions as the body that applies them."""
    documents = [entry.document for entry in settings.subscriptions]
    return SubscriptionsApply(subscriptions=documents, dry_run=dry_run, prune=prune, cancel_pending=cancel_pending)


async def differing(settings: Settings, context: Context) -> Sequence[Change]:
    """The additions and changes that applying them would make. Raises SettingsError for a mistake, StoreError."""
    body = body_of(settings, dry_run=True, prune=False)
    with as_settings(settings.subscriptions):
        changes = await planned(context, body, context.dependencies.clock())
    return [one for one in changes if one.action != "unchanged"]


async def log_differing(settings: Settings, context: Context) -> None:
    """Logs how many of them differ from those in the database."""
    if not settings.subscriptions:
        return
    try:
        found = await differing(settings, context)
    except SettingsError as error:
        log.error("declared_subscriptions_wrong", error=str(error), hint="`relay check` names what is wrong")
    except StoreError as error:
        log.warning("declared_subscriptions_not_compared", error=str(error))
    else:
        if found:
            hint = "`relay apply --dry-run` shows how, `relay apply` applies them"
            log.warning("declared_subscriptions_differ", count=len(found), hint=hint)


async def context_of(settings: Settings, store: "Store", audit: "AuditLog | None", clock: Clock) -> Context:
    """The context in which a command checks and applies them on the database itself, without a running node."""
    settings = with_adopted(settings, await adopted_accounts(store))
    definitions = definitions_of(settings)
    settings = with_base_urls(settings, definitions)
    base_url = settings.server.public_url or f"http://{settings.server.host}:{settings.server.port}"
    components = ComponentSettings(settings=settings, base_url=base_url, definitions=definitions)
    api = components.of_api("command line")
    others: dict[str, Any] = {**dict.fromkeys(OF_A_NODE), "audit": audit}
    return Context(dependencies=ApiDependencies(settings=api, clock=clock, store=store, **others))
