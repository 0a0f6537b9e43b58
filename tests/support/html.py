"""Reads a page of the dashboard as a person does: its headings, texts, tables, links and forms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lxml.html

Element = Any
"""An element of lxml: `.get(attribute)`, `.xpath(…)`, `.text_content()`."""


def text_of(element: Element) -> str:
    """The text of an element and all that is in it, with single spaces."""
    return " ".join(element.text_content().split())


@dataclass(frozen=True, slots=True)
class PageForm:
    """A form as the browser would send it: where to, and the fields with their values."""

    method: str
    action: str
    fields: Mapping[str, str]
    buttons: Sequence[str]


class Soup:
    """A parsed page."""

    def __init__(self, html: str) -> None:
        self.root: Element = lxml.html.fromstring(html or "<html></html>")

    def all(self, xpath: str) -> list[Element]:
        """Every element of an XPath, such as `//table//a`."""
        return list(self.root.xpath(xpath))

    def one(self, xpath: str) -> Element:
        """The only element of an XPath."""
        found = self.all(xpath)
        assert len(found) == 1, f"{len(found)} elements match {xpath}"
        return found[0]

    def texts(self, xpath: str) -> list[str]:
        """The texts of every element of an XPath."""
        return [text_of(one) for one in self.all(xpath)]

    def attributes(self, xpath: str, name: str) -> list[str]:
        """The values of an attribute of every element of an XPath."""
        return [one.get(name) for one in self.all(xpath)]

    @property
    def title(self) -> str:
        """The title of the browser's tab."""
        return text_of(self.one("//title"))

    @property
    def text(self) -> str:
        """All that the page's content says, without the navigation and the footer."""
        return " ".join(self.texts("//main"))

    @property
    def headings(self) -> list[str]:
        """The headings of the content, in order."""
        return self.texts("//main//*[self::h1 or self::h2 or self::h3]")

    def rows(self, table: int = 0) -> list[dict[str, str]]:
        """The rows of a table, each cell by its column's heading."""
        found = self.all("//main//table")[table]
        names = [text_of(cell) for cell in found.xpath("./thead/tr/th | ./thead/tr/td")]
        lines = [[text_of(cell) for cell in row.xpath("./th | ./td")] for row in found.xpath("./tbody/tr")]
        return [dict(zip(names, line, strict=True)) for line in lines]

    def links(self) -> dict[str, str]:
        """Where the links of the content lead, by their text."""
        return {text_of(one): one.get("href") for one in self.all("//main//a[@href]")}

    def forms(self) -> list[PageForm]:
        """The forms of the content."""
        return [_form(one) for one in self.all("//main//form")]

    def form(self, action: str) -> PageForm:
        """The only form of the content that is sent to this path."""
        found = [one for one in self.forms() if one.action == action]
        assert len(found) == 1, f"{len(found)} forms lead to {action}: {[one.action for one in self.forms()]}"
        return found[0]


def _form(element: Element) -> PageForm:
    fields: dict[str, str] = {}
    for one in element.xpath(".//input[@name] | .//select[@name] | .//textarea[@name]"):
        if one.tag == "select":
            options = one.xpath(".//option")
            chosen = [option for option in options if option.get("selected") is not None] or options[:1]
            value = None if not chosen else chosen[0].get("value", text_of(chosen[0]))
        elif one.tag == "textarea":
            value = (one.text or "").removeprefix("\n")
        elif one.get("type") in ("checkbox", "radio"):
            value = one.get("value", "on") if one.get("checked") is not None else None
        else:
            value = one.get("value", "")
        if value is not None:
            fields[one.get("name")] = value
    buttons = [text_of(button) for button in element.xpath(".//button")]
    return PageForm(element.get("method", "get").lower(), element.get("action", ""), fields, buttons)
