"""Reloads the settings (SIGHUP): applies some to a running node, and lists those that need a restart."""

from collections.abc import Mapping

from relay.config.settings import Settings, changed_needs_restart, reloaded_keys
from relay.delivery.dispatcher import Dispatcher
from relay.node.component_settings import ComponentSettings
from relay.polling.poller import Poller


def takes_over(old: Settings, new: Settings) -> Settings:
    """The old settings with the new upstream and encryption keys, tokens, polling, delivery, capture and declared
    subscriptions."""
    sources = {}
    for name, source in old.sources.items():
        after = new.sources.get(name)
        if after is not None:
            accounts = {one: after.accounts.get(one, account) for one, account in source.accounts.items()}
            source = source.replace(polling=after.polling, accounts=accounts)
        sources[name] = source
    taken = old.replace(
        auth=new.auth,
        delivery=new.delivery,
        encryption=new.encryption,
        proxy=old.proxy.replace(capture=new.proxy.capture),
        sources=sources,
        subscriptions=new.subscriptions,
    )
    return taken.replace(written=old.written.reread(new.written, reloaded_keys(taken)))


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """The changed keys that need a restart, including added and removed sources and accounts."""
    return [*changed_needs_restart(old, new), *sorted(_places(old) ^ _places(new))]


def reconfigure(
    components: ComponentSettings, dispatcher: Dispatcher, pollers: Mapping[tuple[str, str], Poller]
) -> None:
    """Applies the settings to a running dispatcher and pollers."""
    dispatcher.configure(components.of_dispatcher())
    for source in components.settings.sources.values():
        for account in source.accounts.values():
            poller = pollers.get((source.name, account.name))
            if poller is not None:
                poller.configure(components.of_account(source, account), components.of_planner(source))


def _places(settings: Settings) -> set[str]:
    return {
        f"sources.{name}.accounts.{account}" for name, source in settings.sources.items() for account in source.accounts
    }
