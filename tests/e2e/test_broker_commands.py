"""A subscription of a real NATS by the commands: added, tried, previewed, checked, exported and applied again."""

import json
from pathlib import Path

import nats

from tests.e2e.test_tokens import World
from tests.support.brokers.nats import nats_server
from tests.support.brokers.process import free_port
from tests.support.process_world import Start

NETWORKS = {"RELAY_SECURITY__ALLOW_NETWORKS": '["127.0.0.0/8"]', "RELAY_SECURITY__ALLOW_HTTP": "true"}
USERS = 'authorization { users: [ { user: relay, password: "s3cr3t-of-nats" } ] }'


async def test_broker_by_the_commands(start: Start, tmp_path: Path) -> None:
    (tmp_path / "users.conf").write_text(USERS)
    credential = tmp_path / "credential.json"
    credential.write_text(json.dumps({"credentialtype": "PLAIN", "identifier": "relay", "secret": "s3cr3t-of-nats"}))
    async with nats_server(tmp_path, "-c", str(tmp_path / "users.conf")) as server:
        sink = f"nats://127.0.0.1:{server.port}"
        client = await nats.connect(sink, user="relay", password="s3cr3t-of-nats")
        world = World(start, "--dev", **NETWORKS)
        add = ("subscriptions", "add", sink, "--subject", "jobs.all", "--content-mode", "binary")
        code, lines = world.run(*add)
        assert (code, "does not accept the credential" in lines[0]) == (2, True)
        code, lines = world.run(*add, "--credential", str(credential))
        assert (code, "no stream has this subject: add one" in lines[0], "--no-check" in lines[0]) == (2, True, True)
        await client.jetstream().add_stream(name="JOBS", subjects=["jobs.>"])
        code, lines = world.run(*add, "--credential", str(credential), "--sample")
        assert code == 0, lines
        assert (
            lines[1]
            == "Subject jobs.all of NATS gets every event of every job, in order within a job or partition key."
        )
        assert lines[2].startswith("the sample was acknowledged in")
        assert "whsec_" not in "\n".join(lines)
        id = lines[0].partition(" ")[0]
        message = await client.jetstream().get_msg("JOBS", 1)
        assert (message.subject, message.headers["ce-type"]) == ("jobs.all", "ai.revor.job.failed")
        assert json.loads(message.data)["status"] == "failed"

        shown = world.json("subscriptions", "show", id)
        assert (shown["sink"], shown["protocol"]) == (sink, "NATS")
        assert shown["sinkcredential"] == {"credentialtype": "PLAIN", "identifier": "relay"}
        templated = ("subscriptions", "edit", id, "--subject", "jobs.{{ event.channel }}.{{ event.status }}")
        assert world.run(*templated)[0] == 0
        code, lines = world.run("subscriptions", "preview", id)
        assert (code, lines[2], "ce-type: ai.revor.job.failed" in lines) == (
            *(0, f"PUBLISH {sink}/jobs.linkedin.failed"),
            True,
        )
        assert world.run("subscriptions", "test", id, "--type", "failed")[0] == 0
        assert (await client.jetstream().get_msg("JOBS", 2)).subject == "jobs.linkedin.failed"
        assert world.run("subscriptions", "add", "pull")[0] == 0
        code, lines = world.run("export")
        assert code == 0
        exported = "\n".join(lines)
        assert "protocol: PULL" in exported
        assert f"sink: {sink}" in exported
        assert "subject: jobs.{{ event.channel }}.{{ event.status }}" in exported
        assert "s3cr3t" not in exported + "\n".join(world.relay.lines)
        assert "sink: none, PULL, pull" in world.run("support", world.json("subscriptions", "list")[0]["id"])[1]
        assert world.relay.end() == 0

        assert "brokers reached" in str(check(world))
        await client.close()
    assert "Connection refused" in str(check(world))
    settings = tmp_path / "again.yaml"
    (tmp_path / "secret").write_text("s3cr3t-of-nats")
    text = exported.replace(f"/run/secrets/{id}-secret", str(tmp_path / "secret")).replace(id, "mine")
    settings.write_text(text + f"\ndatabase: {{url: 'sqlite:///{tmp_path}/other.db'}}\n")
    assert start("migrate", "--config", str(settings), **NETWORKS).close() == 0
    applied = start("apply", "--config", str(settings), **NETWORKS)
    assert applied.close() == 0, applied.lines
    assert f"+ add mine → {sink}" in applied.lines
    again = start("apply", "--dry-run", "--config", str(settings), **NETWORKS)
    assert (again.close(), again.lines[-1]) == (0, "nothing to change: 2 as declared")


def check(world: World) -> list[str]:
    return world.run("check", **NETWORKS, REVOR_BASE_URL=f"http://127.0.0.1:{free_port()}")[1]
