"""Declared subscriptions and a relay process: it applies nothing by itself, and `relay apply` works beside it."""

import signal
from pathlib import Path

from tests.e2e.test_tokens import World
from tests.support.process_world import Start

DECLARED = """\
subscriptions:
  - id: crm
    sink: https://crm.example/hook
    config: {secret: "${file:%s}"}
"""


def test_apply_goes_through_the_node_that_holds_the_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_" + "A" * 32)
    settings = tmp_path / "relay.yaml"
    settings.write_text(DECLARED % (tmp_path / "secret"))
    world = World(start, "--config", str(settings))
    world.relay.until("declared_subscriptions_differ")
    assert world.json("subscriptions", "list") == []

    def apply(*options: str) -> tuple[int, list[str]]:
        port = world.url.rpartition(":")[2]
        ran = start("apply", "--config", str(settings), *options, RELAY_SERVER__PORT=port)
        return ran.close(), ran.lines

    assert apply("--dry-run") == (1, ["+ add crm → https://crm.example/hook",
                                      "would be: 1 added, 0 changed, 0 removed, 0 unchanged"])  # fmt: skip
    assert apply()[0] == 0
    (listed,) = world.json("subscriptions", "list")
    assert (listed["id"], listed["declared"], listed["state"]) == ("crm", True, "enabled")
    settings.write_text((DECLARED % (tmp_path / "secret")).replace("hook", "new"))
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until("declared_subscriptions_differ")
    assert world.relay.end() == 0
    assert apply() == (0, ["~ change crm: sink → https://crm.example/new",
                           "done: 0 added, 1 changed, 0 removed, 0 unchanged"])  # fmt: skip
    assert "A" * 32 not in "\n".join(world.relay.lines)
