"""The documentation site: built as `make docs` does, read as HTML, and opened from the disk in Chromium."""

import json
import re
import runpy
import subprocess
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.chromium import FLAGS, chromium
from tests.support.environments import artefacts_python
from tests.support.lock import ROOT
from tests.support.npm import npm_folder

REPOSITORY = "https://github.com/revor-relay/revor-relay"
BUILD_SECONDS = 180
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset"}
"""What a browser loads with the page."""
WORDS = {
    "outbox": "guides/bus.html",
    "DATABASE_URL": "operate/postgresql.html",
    "send twice": "start/faq.html",
    "relay_polls_wasted_total": "operate/metrics.html",
    "rotate-secret": "reference/commands.html",
    "/v1/jobs/batch": "api/post-v1-jobs-batch.html",
}
"""Words that someone looks for, and a page that has to be found."""
LOOKED_AT = ("index.html", "start/tour.html", "api/post-v1-jobs.html")
PHONE, DESK = {"width": 360, "height": 780}, {"width": 1280, "height": 900}
AXE = "axe-core@4.14.1"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class Parsed(HTMLParser):
    """What a page says of itself, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.description = ""
        self.title = ""
        self.headings = 0
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors += [given[name] for name in ("id", "name") if name in given and tag not in ("input", "meta")]
        self.headings += tag == "h1"
        self._in_title = tag == "title" and not self.title
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "meta" and given.get("name") == "description":
            self.description = given["content"]
        if tag in LOADED and LOADED[tag] in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title, self._in_title = data, False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [artefacts_python(), "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> Mapping[str, Parsed]:
    """Every page by its path on the site."""
    found = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    return {name: Parsed(path.read_text(encoding="utf-8")) for name, path in found.items() if name != "404.html"}


@pytest.fixture(scope="module")
def openapi(site: Path) -> Mapping[str, Mapping[str, Mapping[str, object]]]:
    found: Mapping[str, Mapping[str, Mapping[str, object]]] = json.loads((site / "openapi.json").read_text())
    return found


# --- links


def test_make_docs_builds_strictly() -> None:
    """With `--quiet` mkdocs counts no warning."""
    assert re.search(r"-m mkdocs build --strict($| #)", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_link_and_picture_leads_to_something(pages: Mapping[str, Parsed], site: Path) -> None:
    missing = []
    for name, page in pages.items():
        for target in (*page.links, *page.loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            aim = ((site / name).parent / unquote(parts.path)).resolve() if parts.path else site / name
            if aim.is_dir():
                aim /= "index.html"
            if not aim.is_relative_to(site) or not aim.is_file():
                missing.append(f"{name}: {target}")
            elif parts.fragment and aim.suffix == ".html":
                there = pages[aim.relative_to(site).as_posix()].anchors
                if unquote(parts.fragment) not in there:
                    missing.append(f"{name}: {target} (no such anchor)")
    assert missing == []


def test_links_to_the_repository_lead_to_its_files(pages: Mapping[str, Parsed]) -> None:
    links = {
        link
        for page in pages.values()
        for link in page.links
        if link.startswith((f"{REPOSITORY}/blob/", f"{REPOSITORY}/tree/"))
    }
    parts = [link.removeprefix(REPOSITORY).partition("#")[0].split("/", 3)[1:] for link in links]
    found = {kind: [path for one, _, path in parts if one == kind] for kind in ("blob", "tree")}
    assert found["blob"]
    assert [path for path in found["blob"] if not (ROOT / path).is_file()] == []
    assert [path for path in found["tree"] if not (ROOT / path).is_dir()] == []


def test_no_document_is_linked_at_github_that_has_a_page(pages: Mapping[str, Parsed]) -> None:
    links = {link for name, page in pages.items() for link in page.links if name != "CHANGELOG.html"}
    assert [link for link in sorted(links) if link.startswith(f"{REPOSITORY}/blob/main/docs/")] == []


def test_no_anchor_stands_twice_on_a_page(pages: Mapping[str, Parsed]) -> None:
    twice = {name: {one for one in page.anchors if page.anchors.count(one) > 1} for name, page in pages.items()}
    assert {name: sorted(found) for name, found in twice.items() if found} == {}


def test_no_page_loads_anything_of_another_host(pages: Mapping[str, Parsed], site: Path) -> None:
    foreign = [f"{name}: {url}" for name, page in pages.items() for url in page.loaded if urlsplit(url).netloc]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
        foreign += [f"{sheet.name}: {url}" for url in urls if urlsplit(url).netloc]
    assert foreign == []


# --- pages


def test_every_document_is_one_page(pages: Mapping[str, Parsed]) -> None:
    of_documents = [document.removeprefix("docs/").removesuffix(".md") + ".html" for document in DOCUMENTS]
    of_documents[of_documents.index("README.html")] = "index.html"
    assert [name for name in of_documents if name not in pages] == []


def test_every_page_says_what_it_is(pages: Mapping[str, Parsed]) -> None:
    for name, page in pages.items():
        assert page.headings == 1, name
        assert page.title.strip() not in ("", "None - revor-relay"), name
        assert 0 < len(page.description) <= 202, f"{name}: {page.description}"
        assert not re.search(r"[`\[\]#]|\*\*|<", page.description.replace("[]", "")), f"{name}: {page.description}"


def test_a_bar_in_a_table_is_shown_without_its_escape(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text("utf-8")
    assert "--source NAME|FILE" in text.replace("<wbr>", "")


def test_every_operation_has_a_page(
    pages: Mapping[str, Parsed], site: Path, openapi: Mapping[str, Mapping[str, Mapping[str, object]]]
) -> None:
    routes = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    shown = {}
    for name in pages:
        if name.startswith("api/") and name != "api/objects.html":
            found = re.search(r"<code>((?:GET|POST|PUT|DELETE) [^<]+)</code>", (site / name).read_text("utf-8"))
            assert found is not None, name
            shown[found[1]] = name
    assert set(shown) == routes
    listed = pages["reference/http-reference.html"].links
    assert [name for name in shown.values() if f"../{name}" not in listed] == []


def test_what_programs_read_is_beside_the_pages(site: Path) -> None:
    assert json.loads((site / "asyncapi.json").read_text())["asyncapi"].startswith("3.")
    for schema in (ROOT / "schemas").glob("*.json"):
        assert (site / "schemas" / schema.name).read_bytes() == schema.read_bytes()


def test_llms_files_have_every_page(pages: Mapping[str, Parsed], site: Path) -> None:
    """As https://llmstxt.org has it: a title, a summary, then a line for each page below headings."""
    index, full = (site / "llms.txt").read_text("utf-8"), (site / "llms-full.txt").read_text("utf-8")
    assert index.startswith("# revor-relay\n\n> ")
    lines = re.findall(
        r"^- \[(.+)\]\(https://revor-relay\.github\.io/revor-relay/latest/([^)]+)\): (.+)$", index, re.MULTILINE
    )
    assert sorted(url for _, url, _ in lines) == sorted(pages)
    assert [title for title, _, about in lines if not title or not about] == []
    ends = [full.index(f"<!-- https://revor-relay.github.io/revor-relay/latest/{url} -->") for _, url, _ in lines]
    assert ends == sorted(ends), "in another order than the navigation"


# --- versions


def test_each_release_is_published_beside_the_earlier_ones(site: Path, tmp_path: Path) -> None:
    publish = runpy.run_path(str(ROOT / ".ci" / "publish_site.py"))["publish"]
    small, folder = tmp_path / "site", tmp_path / "published"
    small.mkdir()
    for version in ("0.2", "0.10", "0.3"):
        page = (site / "index.html").read_text("utf-8").replace("</h1>", f" {version}</h1>")
        (small / "index.html").write_text(page, encoding="utf-8")
        publish(small, folder, version)
    menu = json.loads((folder / "versions.json").read_text())
    assert [(one["version"], one["aliases"]) for one in menu] == [("0.10", ["latest"]), ("0.3", []), ("0.2", [])]
    for name, version in {"0.2": "0.2", "0.3": "0.3", "0.10": "0.10", "latest": "0.10"}.items():
        page = (folder / name / "index.html").read_text("utf-8")
        assert f" {version}</h1>" in page
        assert '"version": {"provider": "mike"}' in page, "without a menu of versions"
    assert 'url=latest/"' in (folder / "index.html").read_text()


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = npm_folder(tmp_path_factory.mktemp("npm"), [AXE])
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def test_search_finds_words_from_the_disk(browser: Browser, site: Path) -> None:
    page = browser.new_page(viewport=DESK)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url)
    )
    page.goto(f"file://{site}/index.html")
    for word, name in WORDS.items():
        query = page.locator("[data-md-component=search-query]")
        query.fill("")
        query.press_sequentially(word)
        page.locator(f'.md-search-result__link[href*="{name}"]').first.wait_for(timeout=60_000)
    page.close()
    assert faults == []


def test_what_is_copied_is_what_is_typed(browser: Browser, site: Path) -> None:
    """The theme marks a block while it copies its text."""
    page = browser.new_page(viewport=DESK)
    page.goto(f"file://{site}/start/quick-start.html")
    copied = page.evaluate(
        """() => [...document.querySelectorAll("article pre > code")].map((block) => {
          block.setAttribute("data-md-copying", "");
          return block.innerText.trim();
        })"""
    )
    page.close()
    assert any(text.endswith("\nmake demo") for text in copied), copied[0]
    assert [text for text in copied if text.startswith("$ ")] == []


@pytest.mark.parametrize("name", LOOKED_AT)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_axe_finds_nothing(
    scheme: Literal["light", "dark"], name: str, browser: Browser, site: Path, axe: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"file://{site}/{name}")
    page.locator("html.js").wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "wider than a phone"
    page.set_viewport_size(DESK)
    assert page.evaluate("document.documentElement.scrollWidth") <= DESK["width"]
    page.evaluate(axe + ";0")
    run_only = (
        {"type": "tag", "values": AXE_TAGS} if scheme == "light" else {"type": "rule", "values": ["color-contrast"]}
    )
    found = page.evaluate("(options) => axe.run(options)", {"runOnly": run_only, "resultTypes": ["violations"]})
    assert [
        f"{one['id']}: {node['html'][:160]} {node['any'][:1]}" for one in found["violations"] for node in one["nodes"]
    ] == []
    context.close()
