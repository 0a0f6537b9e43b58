"""Subscriptions at /ui/subscriptions: the list, one of them, its form with a preview, and what can be done with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from relay.api.deliveries.sink_credentials import CREDENTIALS
from relay.clock import to_rfc3339
from relay.core.events.event import Origin
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.subscriptions.subscription import PULL
from relay.errors import FieldError, Forbidden, InvalidRequest, RequestError
from relay.web.api_client import together
from relay.web.concerns import Concern
from relay.web.delivery_words import is_failing, listed_reason, reason_and_cause
from relay.web.drawings import drawing
from relay.web.event_choices import event_words, grouped, type_words, usual_types
from relay.web.figures import day_of, first_hour
from relay.web.page import Content, Done, Export, PageRequest, action, columns, equivalent, page
from relay.web.pages.cards import cards_of
from relay.web.pages.deliveries import people_of
from relay.web.rendering import pretty
from relay.web.subscription_form import (
    CREDENTIAL,
    KEEP,
    KIND,
    NO_CREDENTIAL,
    OTHER_TYPES,
    TILE,
    Filled,
    body_of,
    credential_sentence,
    errors_by_field,
    fields_of,
    form_fields,
    kind_of,
    new_fields,
    typed_again,
)
from relay.web.subscription_words import concerns_of
from relay.web.texts import english
from subscribers import registry
from subscribers.base import Kind
from subscribers.fields import Part, WrittenField, model_of

SHOWN = 25
"""Subscriptions on one page of the list: each has its own figures."""
LAST_DELIVERIES = 15
RECENT_EVENTS = 20
"""Events that a preview can be made of."""
MAX_SINKS = 500
COUNTED = 2_000
"""Deliveries that a backlog and what was given up are counted from, the newest."""
COUNTED_STATES = ("pending", "dead", "uncertain", "delivered")
DAY_SECONDS = 86_400
OVERLAPS = {"0": "now", "3600": "hour", "86400": "day", "604800": "week"}
"""Lifetimes of an old secret, in seconds, and the word of the catalogue for each."""
WRITES = "subscriptions:write"
PARTS: Sequence[Part] = ("config", "protocolsettings")
"""The parts with fields of a kind's own."""
POSTED = ("method", "POST")
WORST_FIRST = ("disabled", "failing", "doubt", "pending", "paused", "enabled")
DOUBTED = {"uncertain", "uncertain_least"}
FIGURES = "attempts,attempts_failed,attempt_seconds"
COLUMNS = columns(
    "id description state since=state_since why=state_reason failing_since failing_why=failing_reason "
    "kind=config.kind sink types owner created_at"
)

Answer = Mapping[str, Any]
text = english()


# --- the list and one subscription


@page("GET /ui/subscriptions", live=True)
async def subscriptions(page_request: PageRequest) -> Content:
    """Each with its state, its success and its backlog."""
    asked = page_request.asked("callbacks")
    query = {**asked, "limit": SHOWN, "cursor": page_request.query.get("cursor")}
    (found, figures), counts = await together(_with_figures(page_request, query), _counts(page_request))
    rows, troubles = [], []
    for one in found["items"]:
        row, wrong = _row(one, counts, figures, page_request.now)
        troubles += wrong[:1]
        more = {"name": _name(one), "kind": kind_words(one["config"]["kind"]), "turn": wrong[0].turn if wrong else ""}
        rows.append({**row, **more})
    return Content(
        template="subscriptions.html",
        title=text("base.subscriptions"),
        values={
            "subscriptions": sorted(rows, key=lambda row: WORST_FIRST.index(row["standing"])),
            "troubles": sorted(troubles, key=lambda one: one.level),  # "bad" is before "warn"
            "last_known": not counts["delivered"].truncated,
            "next_cursor": found["next_cursor"],
            "callbacks": bool(asked),
            "writes": page_request.may(WRITES),
        },
        equivalent=equivalent(
            ["relay", "subscriptions", "list", *(["--callbacks"] if asked else [])],
            "GET /v1/subscriptions",
            query=asked,
        ),
        export=Export(path="/v1/subscriptions", query=asked, columns=COLUMNS),
    )


async def _with_figures(
    page_request: PageRequest, query: Mapping[str, object]
) -> tuple[Answer, dict[str, dict[str, Any]]]:
    """A page of the list, and the figures of its subscriptions."""
    found = await page_request.api.get("/v1/subscriptions", query=query)
    return found, await _recent_figures(page_request, [one["id"] for one in found["items"]])


def _standing(one: Answer, wrong: Sequence[Concern]) -> dict[str, Any]:
    """The state, since when, and why. An enabled one whose deliveries fail is failing, or in doubt if that is all that
    is wrong with it."""
    if one["state"] == "enabled" and wrong and {concern.key for concern in wrong} <= DOUBTED:
        return {"standing": "doubt", "since": wrong[0].since, "why": wrong[0].why}
    if is_failing(one):
        return {"standing": "failing", "since": one["failing_since"], "why": reason_and_cause(one["failing_reason"])}
    why = reason_and_cause(one["disabled_reason"]) or one["state_reason"]
    return {"standing": one["state"], "since": one["state_since"], "why": why}


NO_FIGURES: Mapping[str, Any] = {"success": None, "p95": None, "attempts": 0}


async def _recent_figures(page_request: PageRequest, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Success and p95 of the attempts since yesterday, 00:00 UTC."""
    since = (page_request.now // DAY_SECONDS - 1) * DAY_SECONDS
    query = {"name": FIGURES, "span": "day", "label": ",".join(ids), "since": to_rfc3339(since)}
    found = await page_request.api.allowed("/v1/figures", query=query) if ids else None
    points: dict[str, dict[str, Sequence[Answer]]] = {}
    for one in found["items"] if found is not None else ():
        points.setdefault(one["label"], {})[one["name"]] = one["points"]
    return {id: _summed(one) for id, one in points.items()}


def _summed(points: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    attempts = sum(one["count"] for one in points["attempts"])
    failed = sum(one["count"] for one in points["attempts_failed"])
    times = [one["p95"] for one in points["attempt_seconds"] if one["p95"] is not None]
    success = max(0.0, 1 - failed / attempts) if attempts else None
    return {"success": success, "p95": times[-1] if times else None, "attempts": attempts}


@dataclass(frozen=True, slots=True)
class Counted:
    """The newest deliveries of a state by subscription. `truncated`: there are more than were counted."""

    groups: Mapping[str, Answer]
    truncated: bool

    def of(self, id: str) -> list[dict[str, Any]]:
        """The group of a subscription, if it has one, as `Seen` has it."""
        return [{**self.groups[id], "least": self.truncated}] if id in self.groups else []


async def _counts(page_request: PageRequest, id: str | None = None) -> Mapping[str, Counted]:
    """The newest deliveries of each state in COUNTED_STATES: of one subscription, or of all."""
    query = {"group_by": "sink", "limit": MAX_SINKS, "newest": COUNTED, "subscription": id}
    found = await together(
        *(page_request.api.get("/v1/deliveries", query={**query, "state": state}) for state in COUNTED_STATES)
    )
    return {
        state: Counted({group["subscription_id"]: group for group in one["items"]}, one["truncated"])
        for state, one in zip(COUNTED_STATES, found, strict=True)
    }


def _row(
    one: Answer, counts: Mapping[str, Counted], figures: Mapping[str, Mapping[str, Any]], now: float
) -> tuple[dict[str, Any], list[Concern]]:
    """A subscription with its state, its figures and its deliveries, and what is wrong with it."""
    pending, dead, uncertain, delivered = (counts[state].of(one["id"]) for state in COUNTED_STATES)
    wrong = concerns_of(one, dead, uncertain, pending, now)
    row = {
        **one,
        **_standing(one, wrong),
        **figures.get(one["id"], NO_FIGURES),
        "backlog": _backlog(one, counts["pending"]),
        "given_up": {"count": dead[0]["count"] if dead else 0, "more": counts["dead"].truncated},
        "last": delivered[0]["newest_at"] if delivered else None,
    }
    return row, wrong


def _name(one: Answer) -> str:
    return str(one["description"] or one["sink"] or text("subscriptions.pulled_by"))


def _tries(config: Answer) -> dict[str, Any]:
    """The number of attempts of an event, and the time that they take."""
    pauses = config.get("retry_schedule") or ()
    return {"n": len(pauses) + 1, "seconds": sum(pauses)}


def _backlog(one: Answer, pending: Counted) -> dict[str, Any]:
    if (lag := one.get("lag")) is not None:
        return {"count": lag["count"], "seconds": lag["oldest_seconds"], "oldest_at": None, "more": False}
    found = pending.groups.get(one["id"])
    count, oldest_at = (0, None) if found is None else (found["count"], found["oldest_at"])
    return {"count": count, "seconds": None, "oldest_at": oldest_at, "more": pending.truncated}


# --- the form

NEW_BODY = '{"sink": "SINK"}'


def _tile(kind: Kind) -> dict[str, str]:
    return {
        "kind": kind.name,
        "name": kind_words(kind.name),
        "words": kind.offer.words or text.get(f"subscriptions.tile_{kind.family.lower()}", text("subscriptions.tile_")),
    }


def kind_words(name: str) -> str:
    """A kind's name as its owner writes it."""
    kind = registry.kinds().get(name)
    if kind is None:
        return name
    return kind.offer.name or (name.capitalize() if kind.title == Kind.title else kind.title)


@page("GET /ui/subscriptions/new")
async def new(page_request: PageRequest) -> Content:
    """The kinds to choose from; with `kind` the form of one."""
    _require_writes(page_request)
    kind = page_request.query.get("kind")
    if kind in registry.kinds():
        return await _form(page_request, new_fields(kind, _usual(page_request, kind)))
    return Content(
        template="subscription_kinds.html",
        title=text("subscriptions.new"),
        values={"tiles": [_tile(one) for one in registry.kinds().values()]},
        equivalent=equivalent(["relay", "subscriptions", "add", "SINK"], "POST /v1/subscriptions", body=NEW_BODY),
    )


@page("POST /ui/subscriptions/new")
async def create(page_request: PageRequest) -> Content:
    """Creates the subscription, and shows its secret this once."""
    _require_writes(page_request)
    try:
        body = _body(page_request, None)
        made = await page_request.api.post(
            "/v1/subscriptions", query=_check(page_request), body=body, key=page_request.form.key
        )
    except RequestError as error:
        return await _form(page_request, _typed(page_request, None), error=error)
    secret = (made["config"] or {}).get("secret")
    return Content(
        template="subscription_made.html",
        title=text("subscriptions.made", name=_name(made)),
        values={
            "subscription": made,
            "secret": secret if registry.kind_named(made["config"]["kind"]).signed else None,
        },
        equivalent=equivalent(["relay", "subscriptions", "show", made["id"]], "GET /v1/subscriptions/{}", made["id"]),
    )


@page("GET /ui/subscriptions/{id}/edit")
async def edit(page_request: PageRequest) -> Content:
    """The form with the settings of a subscription."""
    _require_writes(page_request)
    before = await page_request.api.get("/v1/subscriptions/{}", page_request.id())
    return await _form(page_request, _fields_of(page_request, before), before=before)


@page("POST /ui/subscriptions/{id}/edit")
async def change(page_request: PageRequest) -> Content | Done:
    """Changes the subscription."""
    _require_writes(page_request)
    before = await page_request.api.get("/v1/subscriptions/{}", page_request.id())
    try:
        body = _body(page_request, before)
        await page_request.api.put("/v1/subscriptions/{}", page_request.id(), query=_check(page_request), body=body)
    except RequestError as error:
        return await _form(page_request, _typed(page_request, before), before=before, error=error)
    return Done(key="subscription_changed", to=f"/ui/subscriptions/{page_request.id()}")


@page("POST /ui/subscriptions/preview")
async def preview(page_request: PageRequest) -> Content:
    """The request that the form would send: the page again with it, or, for the script, only the preview."""
    _require_writes(page_request)
    id = page_request.form.get("id")
    before = await page_request.api.get("/v1/subscriptions/{}", id) if id else None
    shown: Answer | None = None
    error: RequestError | None = None
    try:
        example = registry.kinds()[kind_of(page_request.form)].offer.example
        body = {**({"sink": example} if example else {}), **_body(page_request, before)}
        asked = {"subscription": body, "replaces": id or None}
        event = page_request.form.get("event")
        asked["event_id" if event.startswith("evt_") else "type"] = event or None
        shown = await page_request.api.post("/v1/subscriptions/preview", body={k: v for k, v in asked.items() if v})
    except RequestError as refused:
        error = refused
    drawn = None if shown is None else _shown_preview(page_request, shown)
    values: dict[str, Any] = {"preview": drawn, **_errors(error), "explained": ""}
    values["labels"] = _labels(kind_of(page_request.form))
    if page_request.request.headers.get("hx-request") == "true":
        return Content(template="subscription_preview.html", title="", values=values)
    return await _form(
        page_request, _typed(page_request, before), before=before, error=error, preview=values["preview"]
    )


def _shown_preview(page_request: PageRequest, found: Answer) -> Answer:
    look = registry.kinds()[kind_of(page_request.form)].offer.look
    requests = [
        {**one, "body": _readable(one["body"]), "drawing": drawing(look, one["body"])} for one in found["requests"]
    ]
    words = type_words(found["event"]["type"], page_request.context.settings.origins.values())
    return {**found, "words": words, "requests": requests}


def _readable(body: str | None) -> str | None:
    """A body that is JSON, indented."""
    try:
        return body if body is None else pretty(loads(body.encode()))
    except (JSONDecodeError, TypeError):
        return body


def _body(page_request: PageRequest, before: Answer | None) -> dict[str, Any]:
    """The body that the form stands for. The same types in another order are as before: they may be the kind's
    default."""
    drawn_for = page_request.form.get(TILE)
    usual = _usual(page_request, drawn_for if drawn_for in registry.kinds() else kind_of(page_request.form))
    body = body_of(page_request.form, page_request.context.known_types, usual)
    same = before is not None and before["types"] and set(body.get("types", ())) == set(before["types"])
    return {**body, "types": before["types"]} if before is not None and same else body


def _check(page_request: PageRequest) -> Mapping[str, object]:
    return {"check": "false" if page_request.form.get("check") == "off" else None}


def _usual(page_request: PageRequest, kind: str) -> frozenset[str]:
    settings = page_request.context.settings
    origins, all_origins = settings.origins, (settings.unrestricted or settings).origins
    known = page_request.context.known_types
    return usual_types(registry.kind_named(kind), known, origins.values(), all_origins.values())


def _fields_of(page_request: PageRequest, before: Answer) -> Filled:
    usual = _usual(page_request, before["config"]["kind"])
    return fields_of(before, page_request.context.known_types, usual)


def _typed(page_request: PageRequest, before: Answer | None) -> Filled:
    """The form as it was typed. If its kind is another one now, usual types are those of this kind."""
    form, known = page_request.form, page_request.context.known_types
    kind, drawn_for = kind_of(form), form.get(TILE)
    filled = typed_again(form, known, kind, None if before is None else _fields_of(page_request, before))
    is_usual = drawn_for in registry.kinds() and filled.types == _usual(page_request, drawn_for)
    return replace(filled, types=_usual(page_request, kind)) if is_usual else filled


async def _form(
    page_request: PageRequest,
    filled: Filled,
    *,
    before: Answer | None = None,
    error: RequestError | None = None,
    preview: Answer | None = None,
) -> Content:
    fields, wrong = form_fields(creates=before is None), _errors(error)
    kind = registry.kinds()[filled.get(TILE)]
    events = await page_request.api.allowed("/v1/events", query={"limit": RECENT_EVENTS})
    recent = () if events is None else tuple(zip(events["ids"], events["items"], strict=True))
    known, origins = page_request.context.known_types, page_request.context.settings.origins.values()
    groups = grouped(known, origins)
    command = ["relay", "subscriptions", *(["add", "SINK"] if before is None else ["edit", before["id"]])]
    call = "POST /v1/subscriptions" if before is None else "PUT /v1/subscriptions/{}"
    title = "subscriptions.new_of" if before is None else "subscriptions.edit_of"
    samples = [one for group in groups for one in group.choices if one[0] in filled.types]
    return Content(
        template="subscription_form.html",
        title=text(title, kind=kind_words(kind.name), name=before and (before["description"] or kind_words(kind.name))),
        status=200 if error is None or preview is not None or page_request.place.endswith("preview") else error.status,
        values={
            "filled": filled,
            "before": before,
            "fields": fields,
            "labels": _labels(kind.name),
            "sections": _sections(fields, filled, wrong["errors"]),
            "options": _options(page_request, filled, fields),
            "words": _words(kind),
            "kind_name": kind_words(kind.name),
            "offer": kind.offer,
            "pulled": kind.name == PULL,
            "groups": groups,
            "events": [
                ("", [("", text("subscriptions.event_sample"))]),
                (text("subscriptions.event_samples"), samples),
                (text("subscriptions.event_recorded"), [_event_option(one, origins) for one in recent]),
            ],
            "preview": preview,
            **wrong,
        },
        equivalent=equivalent(
            command,
            call,
            *([] if before is None else [before["id"]]),
            body=NEW_BODY if before is None else None,
        ),
    )


def _words(kind: Kind) -> Mapping[str, str]:
    """The descriptions of the fields that not all kinds have, as far as they are about this one."""
    models = {part: model for part in PARTS if (model := model_of(kind.name, part)) is not None}
    token: dict[str, str] = {}
    if (asks := kind.by_name) is not None:
        secret = "client_secret" if asks.token_path else "accesstoken"
        token = {f"sinkcredential.{secret}": f"{asks.token[:1].upper()}{asks.token[1:]}. {text('forms.write_only')}"}
        if asks.token_path:
            token["sinkcredential.token_url"] = f"{asks.home.format(domain='acme')}{asks.token_path}"
    return token | {
        f"{part}.{name}": field.description or ""
        for part, model in models.items()
        for name, field in model.model_fields.items()
    }


def _labels(kind: str) -> Mapping[str, str]:
    """The names of the fields, as people who did not read the API know them."""
    by_name = registry.kinds()[kind].by_name
    token = (
        {} if by_name is None else {"sinkcredential.accesstoken": text("subscriptions.token", kind=kind_words(kind))}
    )
    own = {path: text.get(f"forms.field_{path}", one.label) for path, one in form_fields(creates=True).items()}
    return {**own, KIND: text("forms.field_kind"), "event": text("forms.field_event"), **token}


def _same(values: Iterable[str]) -> list[tuple[str, str]]:
    """Options that show their values."""
    return [(one, one) for one in values]


def _sections(
    fields: Mapping[str, WrittenField], filled: Filled, errors: Mapping[str, Sequence[str]]
) -> Mapping[str, Any]:
    """The fields besides address, name and types: `needed` by the kind, and the rest under "More", which is open if
    there is something to see in it."""
    parts = [one for one in fields.values() if one.part and one.path not in (KIND, CREDENTIAL)]
    kind = registry.kinds()[filled.get(TILE)]
    names = {part: model.model_fields for part in PARTS if (model := model_of(kind.name, part)) is not None}
    needed = [one for one in parts if one.name in names.get(one.part, ()) and names[one.part][one.name].is_required()]

    def is_shown(one: WrittenField) -> bool:
        return one.name in names.get(one.part, ()) or bool(filled.get(one.path)) or one.path in errors

    credential = [one for one in parts if one.part == "sinkcredential"]
    wanted = CREDENTIALS[chosen].model_fields if (chosen := filled.get(CREDENTIAL)) in CREDENTIALS else {}
    own = [one for one in credential if one.name in wanted and wanted[one.name].is_required()]
    more = [one for one in parts if one not in credential and not one.is_common and one not in needed and is_shown(one)]
    common = [one for one in parts if one.is_common]
    rare = [*more, *common, fields["filters"], fields["source"], fields[KIND]]
    asked = [KIND] if kind.by_name is not None else [KIND, CREDENTIAL, *(one.path for one in credential)]
    typed = any(filled.get(one.path) for one in (*more, fields["filters"], fields["source"])) or filled.get(OTHER_TYPES)
    wrong = any(path in errors for path in (*(one.path for one in rare), *asked))
    is_new = kind.by_name is None and filled.get(CREDENTIAL) not in (KEEP, NO_CREDENTIAL)
    return {
        "needed": needed,
        "asks_credential": kind.by_name is not None,
        "credential": own,
        "other_credential": [one for one in credential if one not in own],
        "other_credential_open": any(
            filled.get(one.path) or one.path in errors for one in credential if one not in own
        ),
        "kind": more,
        "common": common,
        "open": bool(wrong or typed or is_new),
    }


def _options(
    page_request: PageRequest, filled: Filled, fields: Mapping[str, WrittenField]
) -> dict[str, list[tuple[str, str]]]:
    """The choices of each field that has some."""
    default = ("", text("subscriptions.default"))
    found = {
        path: [default, *_same(one.choices or ("true", "false"))]
        for path, one in fields.items()
        if one.choices or one.shape == "switch"
    }
    sources = sorted({*page_request.context.settings.event_sources, *filter(None, [filled.get("source")])})
    keep = [(KEEP, text("subscriptions.credential_keep", shown=filled.credential_shown))]
    none = (NO_CREDENTIAL, text("subscriptions.credential_none"))
    return found | {
        KIND: [("", text("subscriptions.automatic")), *((one, kind_words(one)) for one in registry.kinds())],
        "source": [("", text("subscriptions.any_source")), *_same(sources)],
        CREDENTIAL: [
            *(keep if filled.credential_shown else []),
            none,
            *((one, text.get(f"subscriptions.credential_{one}", one)) for one in fields[CREDENTIAL].choices),
        ],
    }


def _event_option(event: tuple[str, Answer], origins: Iterable[Origin]) -> tuple[str, str]:
    id, document = event
    parts = (
        type_words(document["type"], origins),
        document.get("subject"),
        str(document.get("time", ""))[:16].replace("T", " "),
    )
    return id, " · ".join(str(one)[:80] for one in parts if one)


def _errors(error: RequestError | None) -> dict[str, Any]:
    """The mistakes, by field, and the meaning of a refusal as a whole."""
    if error is None:
        return {"error": None, "errors": {}, "explained": ""}
    errors = errors_by_field(error.errors)
    code = error.errors[0].code if error.errors else error.code
    explained = text.get(f"subscriptions.code_{code}", text.get(f"subscriptions.code_{error.code}", ""))
    return {"error": error, "errors": errors, "explained": explained}


def _require_writes(page_request: PageRequest) -> None:
    if not page_request.may(WRITES):
        raise Forbidden(text("subscriptions.needs_scope"))


# --- one subscription and its actions


@page("GET /ui/subscriptions/{id}", live=True)
async def subscription(page_request: PageRequest) -> Content:
    """One of them: how it stands, its charts, its last deliveries."""
    id = page_request.id()
    found = await page_request.api.get("/v1/subscriptions/{}", id)  # refused at once where it may not be seen
    deliveries, figures, hours, counts = await together(
        page_request.api.get("/v1/deliveries", query={"subscription": id, "limit": LAST_DELIVERIES}),
        _recent_figures(page_request, [id]),
        _hours(page_request, id),
        _counts(page_request, id),
    )
    named = await people_of(page_request, deliveries["items"])
    kind = found["config"]["kind"]
    origins = page_request.context.settings.origins.values()
    row, wrong = _row(found, counts, figures, page_request.now)
    cards = cards_of(page_request, wrong)
    return Content(
        template="subscription.html",
        title=_name(found),
        values={
            "one": row,
            "cards": cards,
            "offered": {act.path for _, acts in cards for act in acts},
            "kind_name": kind_words(kind),
            "types": grouped(found["types"] or (), origins),
            "tries": _tries(found["config"]),
            "hours": hours,
            "deliveries": [
                {
                    **one,
                    "reason_words": listed_reason(one),
                    "words": event_words(one["event_type"], origins),
                    "about": named.get(one["job_uid"]),
                }
                for one in deliveries["items"]
            ],
            "credential": credential_sentence(found["sinkcredential"]),
            "settings": pretty({name: value for name, value in found["config"].items() if value is not None}),
            "protocolsettings": pretty(own) if (own := _own_settings(found)) else "",
            "filters": pretty(found["filters"]) if found["filters"] else "",
            "writes": page_request.may(WRITES),
            "pulled": kind == PULL,
            "signed": registry.kind_named(kind).signed,
            "types_sent": [
                (one, type_words(one, origins)) for one in found["types"] or page_request.context.known_types
            ],
            "overlaps": OVERLAPS,
        },
        equivalent=equivalent(["relay", "subscriptions", "show", id], "GET /v1/subscriptions/{}", id),
    )


def _own_settings(one: Answer) -> dict[str, Any]:
    """The settings of the protocol that are not the usual ones of HTTP."""
    return {name: value for name, value in one["protocolsettings"].items() if value and (name, value) != POSTED}


async def _hours(page_request: PageRequest, id: str) -> Answer | None:
    """A day by hours: attempts, failures, and how long they took."""
    now = page_request.now
    query = {"name": FIGURES, "span": "hour", "label": id, "since": to_rfc3339(first_hour(now))}
    found = await page_request.api.allowed("/v1/figures", query=query)
    if found is None or not any(one["points"] for one in found["items"]):
        return None
    points = {one["name"]: one["points"] for one in found["items"]}
    columns = {
        "attempts": day_of(points["attempts"], "count", now),
        "failed": day_of(points["attempts_failed"], "count", now),
        "p50": day_of(points["attempt_seconds"], "p50", now, None),
        "p95": day_of(points["attempt_seconds"], "p95", now, None),
    }
    rows = [(values[0][0], *(value for _, value in values)) for values in zip(*columns.values(), strict=True)]
    return {**columns, "rows": [row for row in reversed(rows) if row[1]]}


@page("POST /ui/subscriptions/{id}/test")
async def test(page_request: PageRequest) -> Content:
    """Sends a sample, and shows what the sink answered."""
    id = page_request.id()
    metadata, type = page_request.form.get("metadata"), page_request.form.get("type")
    body = {"type": type or None, "metadata": _metadata(metadata) if metadata else None}
    body = {name: value for name, value in body.items() if value is not None}
    result = await page_request.api.post("/v1/subscriptions/{}/test", id, body=body)
    words = ["relay", "subscriptions", "test", id, *(["--type", type] if type else [])]
    return Content(
        template="subscription_test.html",
        title=text("subscriptions.tested"),
        values={
            "id": id,
            "result": result,
            "excerpt": _readable(result["attempt"]["response_excerpt"]),
            "event": pretty(result["event"]),
        },
        equivalent=equivalent(words, "POST /v1/subscriptions/{}/test", id, body=pretty(body)),
    )


def _metadata(given: str) -> Any:
    try:
        return loads(given.encode())
    except JSONDecodeError as error:
        detail = f"line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})"
        raise InvalidRequest(detail, errors=[FieldError(pointer="/metadata", code="invalid", detail=detail)]) from None


@page("POST /ui/subscriptions/{id}/resume")
async def resume(page_request: PageRequest) -> Done:
    """Delivers again."""
    made = await page_request.api.post("/v1/subscriptions/{}/resume", page_request.id())
    key = "subscription_pending" if made["state"] == "pending" else "subscription_resumed"
    return Done(key=key, to=f"/ui/subscriptions/{page_request.id()}")


@page("POST /ui/subscriptions/{id}/rotate-secret")
async def rotate(page_request: PageRequest) -> Content:
    """Makes a new signing secret, and shows it this once."""
    overlap = page_request.form.get("overlap")
    body = {"overlap_seconds": float(overlap)} if overlap in OVERLAPS else {}
    made = await page_request.api.post("/v1/subscriptions/{}/rotate-secret", page_request.id(), body=body)
    return Content(
        template="subscription_secret.html",
        title=text("subscriptions.rotated"),
        values={"id": page_request.id(), **made},
        equivalent=equivalent(
            ["relay", "subscriptions", "rotate-secret", page_request.id()],
            "POST /v1/subscriptions/{}/rotate-secret",
            page_request.id(),
        ),
    )


action(
    "POST /ui/subscriptions/{id}/pause",
    "POST /v1/subscriptions/{}/pause",
    done="subscription_paused",
    to="/ui/subscriptions/{}",
)
action(
    "POST /ui/subscriptions/{id}/delete",
    "DELETE /v1/subscriptions/{}",
    done="subscription_removed",
    to="/ui/subscriptions",
)
