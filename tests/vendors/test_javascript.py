"""The renderers of Adaptive Cards and of Discord's Markdown, which run in browsers, read what the relay sends."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.test_conformance import CONTEXT, TYPES, sample
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.npm import npm_folder
from tests.support.scale import scaled

NPM_PACKAGES = ("adaptivecards@3.0.5", "markdown-it@14.1.0", "discord-markdown@2.5.1")
SCRIPT = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";
const require = createRequire(import.meta.url);
const { AdaptiveCard, SerializationContext, Versions } = require("adaptivecards/dist/adaptivecards.js");
const markdown = require("markdown-it")();
const { toHTML } = require("discord-markdown");

const { cards, embeds, digests, broken } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const complaints = [];

function complaintsAbout(sent) {
  const context = new SerializationContext(Versions.v1_4);
  const card = new AdaptiveCard();
  card.parse(sent, context);
  const found = [];
  for (let index = 0; index < context.eventCount; index++) found.push(context.getEventAt(index).message);
  found.push(...card.validateProperties().validationEvents.map((event) => event.message));
  const { body, actions } = card.toJSON();
  if (!isDeepStrictEqual({ body, actions }, { body: sent.body, actions: sent.actions })) found.push("fields were lost");
  return found;
}

function* markdownOf(element) {
  if (element.text) yield element.text;
  for (const fact of element.facts ?? []) yield* [fact.title, fact.value];
  for (const inner of element.items ?? []) yield* markdownOf(inner);
}

if (complaintsAbout(broken).length === 0) throw new Error("a broken card is accepted");
for (const digest of digests) complaints.push(...complaintsAbout(digest));
for (const card of cards) {
  complaints.push(...complaintsAbout(card));
  for (const element of card.body)
    for (const text of markdownOf(element)) {
      const html = markdown.render(text);
      if (!/^<p>[^<>]*<\\/p>\\n$/.test(html)) complaints.push(`${text} becomes ${html}`);
    }
}
for (const embed of embeds)
  for (const text of [embed.title, ...(embed.fields ?? []).flatMap((field) => [field.name, field.value])]) {
    const html = toHTML(text, { embed: true });
    if (/[<>]/.test(html)) complaints.push(`${text} becomes ${html}`);
  }
console.log(JSON.stringify({ complaints: complaints.slice(0, 9), cards: cards.length, embeds: embeds.length }));
"""


def rendered(kind: str, event: Event, context: RenderContext) -> Any:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    return orjson.loads(registry.kind_named(kind).render(event, subscription, context).body)


def events() -> Iterator[tuple[Event, RenderContext]]:
    for type in TYPES:
        yield sample(type), CONTEXT
    for turn, text in enumerate(TEXTS):
        context = RenderContext(account_names={"emea": text, text: text})
        for event in events_with(text, part=turn, parts=scaled(28, 1)):
            yield event, context


@pytest.mark.verify
def test_adaptive_cards_and_discord_markdown_show_plain_text(tmp_path: Path) -> None:
    folder = npm_folder(tmp_path, NPM_PACKAGES)
    cards, embeds, digests = [], [], []
    for event, context in events():
        cards.append(rendered("teams", event, context)["attachments"][0]["content"])
        embeds.append(rendered("discord", event, context)["embeds"][0])
    for turn, text in enumerate(TEXTS[:: scaled(20, 1)]):
        told = list(events_with(text, part=turn, parts=scaled(7, 1)))
        digest = registry.kind_named("teams").render_bundle(told, Subscription(id="s", sink="x", kind="teams"), CONTEXT)
        digests.append(orjson.loads(digest.body)["attachments"][0]["content"])
    broken = {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "x", "size": "Huge"}]}
    content = json.dumps({"cards": cards, "embeds": embeds, "digests": digests, "broken": broken})
    (folder / "messages.json").write_text(content, encoding="utf-8")
    (folder / "look.mjs").write_text(SCRIPT, encoding="utf-8")
    ran = subprocess.run(
        ["node", "look.mjs", "messages.json"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"complaints": [], "cards": len(cards), "embeds": len(cards)}
    assert len(cards) > len(TEXTS)
