"""The body of a request from a template of the user's own: `config.template`, for kinds of programs.

The names of a template are in VARIABLES, its language in `relay/expressions/liquid.py`, which is imported only if there
is a template: python-liquid is an extra.
"""

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any

from relay.core.events.event import Event
from relay.core.jsontext import loads
from relay.core.subscriptions.subscription import SETTINGS, Subscription
from relay.core.turns import UNREADABLE
from relay.errors import ExtraMissing, FieldError, InvalidRequest, NotRenderable, Unreadable
from relay.expressions.liquid_limits import Escape
from relay.installation import install_command
from subscribers.base import RenderContext
from subscribers.common.options import CrmOptions, TemplateOptions
from subscribers.wording import sentence
from subscribers.wording.jobs import metadata_of
from subscribers.wording.text import Document, data_of

POINTER = "/config/template"


def template_errors(options: TemplateOptions | CrmOptions) -> list[FieldError]:
    """An error for each mistake in the template of a subscription."""
    if options.template is None:
        if options.strict:
            return [FieldError(pointer="/config/strict", code="template_missing", detail="strict needs a template")]
        return []
    return errors_in(options.template, POINTER)


def unreadable_template(subscription: Subscription) -> str | None:
    """Why this program cannot read the templates of a stored subscription: their mistakes, which an older version may
    have stored, or the extra that is missing. None: it can, or there are none."""
    settings = subscription.options.get(SETTINGS) or {}
    marked = {name: text for name, text in settings.items() if "{" in text}
    template = subscription.options.get("template")
    errors = [] if template is None else errors_in(template, POINTER)
    errors += errors_in(marked, f"/{SETTINGS}") if marked else []
    return _words_of(errors) if errors else None


def strictly(subscription: Subscription) -> Subscription:
    """The subscription as a preview renders it: a name that the event lacks is an error."""
    if TemplateOptions.of(subscription).template is None:
        return subscription
    return replace(subscription, options={**subscription.options, "strict": True})


def errors_in(template: Any, pointer: str) -> list[FieldError]:
    """An error for each mistake in a template, which is at `pointer` in the body of a subscription."""
    try:
        _liquid().compile_template(template)
    except InvalidRequest as error:
        return [_placed(one, pointer) for one in error.errors]
    return []


def own_body(event: Event, options: TemplateOptions, context: RenderContext) -> bytes | None:
    """The body for an event from the template of a subscription; None if it has none. Raises NotRenderable."""
    if options.template is None:
        return None
    return render(options.template, event, context, strict=options.strict is True)


def render(
    template: Any,
    event: Event,
    context: RenderContext,
    *,
    strict: bool,
    escape: Escape | None = None,
    pointer: str = POINTER,
) -> bytes:
    """The JSON that a template makes of an event. The same arguments give the same bytes.

    strict   a name that the event lacks is an error, as in a preview; otherwise it is empty text
    escape   changes each value that the template names
    pointer  to the template in the body of a subscription

    Raises NotRenderable, with a pointer to each text that cannot be rendered and the name it lacks, Unreadable for a
    template with mistakes, as an older version may have stored, and ExtraMissing without the extra.
    """
    liquid = _liquid()
    try:
        compiled = liquid.compile_template(template)
    except InvalidRequest as error:
        placed = [_placed(one, pointer) for one in error.errors]
        raise Unreadable(f"{UNREADABLE}the template: {_words_of(placed)}", placed) from None
    try:
        body: bytes = compiled.render(_Variables(event, context), strict=strict, escape=escape)
    except NotRenderable as error:
        raise NotRenderable([_placed(one, pointer) for one in error.errors]) from None
    return body


def own_fields(
    event: Event, options: CrmOptions, context: RenderContext, html_names: Collection[str]
) -> dict[str, Any]:
    """The fields that the template of a subscription, an object, makes of an event; none without a template.

    html_names  fields that are HTML: values of the event are escaped there, so that only the template has markup

    Raises NotRenderable.
    """
    template, strict = options.template, options.strict is True
    if template is None:
        return {}
    plain = {name: value for name, value in template.items() if name not in html_names}
    marked_up = {name: value for name, value in template.items() if name in html_names}
    return {
        **loads(render(plain, event, context, strict=strict)),
        **loads(render(marked_up, event, context, strict=strict, escape=HTML)),
    }


def changed(change: Callable[[str], str], value: object) -> object:
    """The value with all of its texts, names included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): changed(change, one) for name, one in value.items()}
    return [changed(change, one) for one in value] if isinstance(value, list) else value


HTML = Escape(partial(changed, html.escape), character_work=4)
"""For fields that are HTML."""


def _liquid() -> ModuleType:
    try:
        from relay.expressions import liquid
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "liquid":
            raise
        detail = f"templates need the extra templates: {install_command('templates')}"
        missing = FieldError(pointer="", code="extra_missing", detail=detail)
        raise ExtraMissing(detail, errors=[missing]) from None
    return liquid


def _words_of(errors: Sequence[FieldError]) -> str:
    return "; ".join(one.detail if one.code == "extra_missing" else f"{one.pointer}: {one.detail}" for one in errors)


def _placed(error: FieldError, pointer: str) -> FieldError:
    """An error about a place in a template, as one about that place in the body of a subscription."""
    name = error.detail.removesuffix(" is absent")
    is_unknown = error.code == "missing_name" and name.isidentifier() and name not in VARIABLES
    detail = f"{error.detail}: known are {', '.join(VARIABLES)}" if is_unknown else error.detail
    return replace(error, pointer=pointer + error.pointer, detail=detail)


class _Variables(dict[str, object]):
    """The names of a template, with their values, made when they are first named."""

    def __init__(self, event: Event, context: RenderContext) -> None:
        super().__init__()
        self._event = event
        self._context = context
        self._document = event.document()

    def __missing__(self, name: str) -> object:
        value = VARIABLES[name](self._document, self._event, self._context)
        if value is None:
            raise KeyError(name)
        self[name] = value
        return value


def _attributes(document: Document, *_: object) -> dict[str, Any]:
    attributes = dict(document)
    attributes.pop("data", None)
    attributes.pop("data_base64", None)
    return attributes


def _account(document: Document, _: Event, context: RenderContext) -> Mapping[str, object] | None:
    name = document.get("account") or data_of(document).get("account")
    return {"name": name, "display_name": context.account_names.get(name, name)} if isinstance(name, str) else None


VARIABLES: Mapping[str, Callable[[Document, Event, RenderContext], object]] = MappingProxyType(
    {
        "event": _attributes,
        "data": lambda document, event, _: document.get("data") if event.published else data_of(document),
        "job": lambda document, *_: data_of(document).get("job"),
        "metadata": lambda document, *_: metadata_of(document),
        "hint": lambda document, *_: data_of(document).get("hint"),
        "account": _account,
        "sentence": lambda _, event, context: sentence(event, context),
    }
)
"""The names that templates can use. None: the event has no such thing."""
