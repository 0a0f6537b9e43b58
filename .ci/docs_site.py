"""The hook of mkdocs.yml: makes the documentation site of docs/, which is written for GitHub.

Links out of docs/ become links to the repository. Pages that begin with `../` in the nav are files of the repository.
README.md gives the home page its beginning, and the page "Quick start" its rest. http-reference.md becomes a page for
each operation. Beside the pages: the OpenAPI and AsyncAPI documents, the schemas of events, llms.txt, llms-full.txt.
"""

import hashlib
import json
import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
README, INDEX, REFERENCE = "README.md", "docs/README.md", "docs/reference/http-reference.md"
REPOSITORY = "https://github.com/revor-relay/revor-relay"
QUICK_START = "start/quick-start.md"
OBJECTS = "api/objects.md"
SELDOM_SOUGHT = (OBJECTS, "CHANGELOG.md", "design/states.md")
"""Pages with every word, which would come first in the search."""
STATIC = {
    "relay/web/static/favicon.svg": "assets/favicon.svg",
    "relay/web/static/vendor/inter-latin-wght-normal.woff2": "assets/inter-latin-wght-normal.woff2",
    "relay/web/static/vendor/LICENSE.inter": "assets/LICENSE.inter",
}
"""What the site shares with the dashboard."""
MERMAID = "11.12.2"
MERMAID_SHA256 = "d0830a6c05546e9edb8fe20a8f545f3e0dc7c4c3134d584bad9c13a99d7a71e0"
MERMAID_URL = "assets/mermaid.min.js"
AS_LARGE_AS_ITS_TEXT = '%%{init: {"state": {"useMaxWidth": false}, "flowchart": {"useMaxWidth": false}}}%%\n'
"""For a diagram: a wide one scrolls."""
DESCRIPTION_CHARACTERS = 200

_OPERATION = re.compile(r"^### ((?:GET|POST|PUT|DELETE) \S+)$", re.MULTILINE)
_FENCE = re.compile(r"^( *)(```.*?^\1```)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CELL = re.compile(r"<td.*?</td>", re.DOTALL)
_CODE = re.compile(r"(?<=<code>)[^<]*")
_BREAK = re.compile(r"(?<=[A-Za-z}])([._/,])(?=[\w{])(?!py\b)")
_DOOR = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \|$", re.MULTILINE)


class Site:
    """Where each text of the repository stands on the site."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        """Of the pages that no file of docs/ is: by their path on the site."""
        self.origins: dict[str, str] = {}
        """The path in the repository of such a page."""
        self.anchors: dict[tuple[str, str], tuple[str, str]] = {}
        """Page and anchor on the site of a path in the repository and an anchor, where a file is several pages."""
        self.mermaid: Path | None = None
        self.downloads: dict[str, str] = {}
        """The documents for programs, by their names."""
        self.details: dict[str, str] = {}
        """What stands at the end of a page of an operation and is said elsewhere too."""
        self.markdown: dict[str, str] = {}
        """The pages without these details, by their addresses."""
        self.nav = Navigation([], [])

    def page_of(self, path: str, anchor: str) -> tuple[str, str] | None:
        """The page and anchor of a file of the repository; None if it is no part of the site."""
        if (path, anchor) in self.anchors:
            return self.anchors[path, anchor]
        if (path, "") in self.anchors:
            return self.anchors[path, ""][0], anchor
        if path.startswith("docs/") and (ROOT / path).is_file():
            return path.removeprefix("docs/"), anchor
        return None

    def add(self, page: str, origin: str, text: str) -> None:
        """A page made of a file of the repository, or of a part of one."""
        self.texts[page], self.origins[page] = text, origin
        for anchor in anchors_of(text):
            self.anchors[origin, anchor] = page, anchor


site = Site()


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def anchors_of(text: str) -> list[str]:
    """The anchors of a text in Markdown."""
    text = _FENCE.sub("", text)
    return [*map(slug, re.findall(r"^#+ (.+)$", text, re.MULTILINE)), *re.findall(r'<a id="([^"]+)">', text)]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# --- which pages there are


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the pages of files outside of docs/, and puts the operations of the API into the nav."""
    global site
    site = Site()
    site.downloads = downloads()
    lead, _, rest = read(README).partition("\n## ")
    site.add(QUICK_START, README, f"# Quick start\n\n## {rest}")
    site.anchors[README, ""] = QUICK_START, ""
    assert lead.startswith("# ")
    config.nav = [*_nav(config.nav)]
    site.mermaid = mermaid()
    if site.mermaid is None:
        config.mdx_configs["pymdownx.superfences"]["custom_fences"] = []
    return config


def _nav(entries: list[Any]) -> Iterator[Any]:
    for entry in entries:
        ((title, below),) = entry.items() if isinstance(entry, dict) else [(None, entry)]
        made = list(_nav(below)) if isinstance(below, list) else _page(below)
        yield {title: made} if title else made
        if f"docs/{made}" == REFERENCE:
            yield from _operations()


def _page(entry: str) -> str:
    """The page of an entry of the nav. Of a file outside of docs/ it is made, and never the index of a folder."""
    path = entry.removeprefix("../")
    if path == entry:
        return entry
    if (path, "") not in site.anchors:
        page = path.replace("/README.md", ".md")
        site.add(page, path, read(path))
        site.anchors[path, ""] = page, ""
    return site.anchors[path, ""][0]


def _operations() -> Iterator[Any]:
    """A page for each operation and one for the objects: the sections of the reference. The nav's sections are tags."""
    lead, *sections = re.split(r"^## ", re.sub(r"<!-- .* -->\n", "", read(REFERENCE)), flags=re.MULTILINE)
    names = [*site.downloads, *sorted(f"schemas/{path.name}" for path in (ROOT / "schemas").glob("*.json"))]
    index = [lead, f"For programs: {', '.join(f'[{posixpath.basename(name)}]({name})' for name in names)}\n\n"]
    of_objects = re.split(r"^### (\w+)$", sections[-1], flags=re.MULTILINE)[1:]
    objects = dict(zip(of_objects[::2], of_objects[1::2], strict=True))
    for section in sections:
        head, _, body = section.partition("\n")
        tag, of_operations, _ = head.partition(": operations")
        if of_operations:
            pages, lines = [], []
            _, *parts = _OPERATION.split(body)
            for route, text in zip(parts[::2], parts[1::2], strict=True):
                summary, more = re.split(r"\.(?: |$)", text.strip(), maxsplit=1, flags=re.MULTILINE)
                page = f"api/{re.sub(r'[^a-z0-9]+', '-', route.lower()).strip('-')}.md"
                site.add(page, REFERENCE, f"# {summary}\n\n`{route}`\n\n{more}\n")
                site.anchors[REFERENCE, slug(route)] = page, ""
                bodies = re.findall(r"\[(\w+)\]\(#", "".join(re.findall(r"^- Body: .*$", text, re.MULTILINE)))
                site.details[page] = _example(route) + "".join(f"\n\n## {one}{objects[one]}" for one in bodies)
                pages.append(page)
                lines.append(f"- [{summary}](#{slug(route)}): `{route}`")
            index.append(f"## {tag}\n\n" + "\n".join(lines) + "\n\n")
            site.anchors[REFERENCE, slug(head)] = REFERENCE.removeprefix("docs/"), slug(tag)
            yield {tag: pages}
        elif head == "Objects":
            site.add(OBJECTS, REFERENCE, f"# Objects\n\n{body}")
            yield OBJECTS
        else:
            index.append(f"## {head}\n{body}")
    site.texts[REFERENCE.removeprefix("docs/")] = "".join(index)


def _example(route: str) -> str:
    """A request with curl, and an answer to it, of the examples in the OpenAPI document."""
    method, path = route.split(" ")
    operation = json.loads(site.downloads["openapi.json"])["paths"][path][method.lower()]
    for one in operation.get("parameters", []):
        path = path.replace(f"{{{one['name']}}}", str(one.get("example", f"{{{one['name']}}}")))
    lines = [f"curl {'' if method == 'GET' else f'-X {method} '}'http://127.0.0.1:8080{path}'"]
    if "security" in operation:
        lines.append('-H "Authorization: Bearer $RELAY_TOKEN"')
    for kind, content in [*operation.get("requestBody", {}).get("content", {}).items()][:1]:
        body = json.dumps(content["example"], ensure_ascii=False).replace("'", "'\\''")
        lines += [f"-H 'Content-Type: {kind}'", f"-d '{body}'"]
    parts = ["## Example", "```sh\n" + " \\\n  ".join(lines) + "\n```"]
    answers = [answer.get("content", {}) for code, answer in operation["responses"].items() if code < "3"]
    examples = [one["example"] for content in answers for one in content.values() if "example" in one]
    parts += [f"```json\n{json.dumps(one, ensure_ascii=False, indent=2)}\n```" for one in examples[:1]]
    return "\n\n".join(parts)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds those pages, and what can be downloaded."""
    for page, text in site.texts.items():
        if (there := files.get_file_from_path(page)) is not None:
            files.remove(there)
        files.append(File.generated(config, page, content=text))
    for path, target in STATIC.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
    for path in (ROOT / "schemas").iterdir():
        files.append(File.generated(config, f"schemas/{path.name}", abs_src_path=str(path)))
    for name, text in site.downloads.items():
        files.append(File.generated(config, name, content=text))
    if site.mermaid is not None:
        files.append(File.generated(config, MERMAID_URL, abs_src_path=str(site.mermaid)))
    return files


def downloads() -> dict[str, str]:
    """The OpenAPI and AsyncAPI documents, by the Python that has the relay."""
    program = [ROOT / ".venv" / "bin" / "python", ROOT / ".ci" / "docs.py", "--downloads"]
    found: dict[str, str] = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    return found


def mermaid() -> Path | None:
    """The program that draws diagrams, of npm. None without npm: the site then shows their source."""
    kept = ROOT / ".venv-artefacts" / f"mermaid-{MERMAID}.min.js"
    if kept.exists() or shutil.which("npm") is None:
        return kept if kept.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"mermaid@{MERMAID}"]
        if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0:
            return None
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            program = archive.extractfile("package/dist/mermaid.min.js")
            assert program is not None
            content = program.read()
    assert hashlib.sha256(content).hexdigest() == MERMAID_SHA256, "npm has another mermaid under this version"
    kept.write_bytes(content)
    return kept


# --- what stands on them


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the Markdown of GitHub into that of the site."""
    here = page.file.src_uri
    if here == README:
        page.meta["hide"] = ["navigation", "toc"]
        lead = read(README).partition("\n## ")[0]
        markdown = f"{linked(lead, here, README)}\n\n{doors(linked(markdown, here, INDEX))}"
    else:
        markdown = linked(markdown, here, site.origins.get(here, f"docs/{here}"))
    if here in SELDOM_SOUGHT:
        page.meta["search"] = {"boost": 0.3}
    if here in site.details:  # what the operation does, not its errors
        page.meta["description"] = description_of(markdown.partition("\n- ")[0])
    else:
        page.meta["description"] = description_of(markdown)
    site.markdown[page.url] = markdown.strip()
    details = linked(site.details.get(here, ""), here, REFERENCE)
    return f"{markdown}\n\n{details}"


def linked(text: str, page: str, origin: str) -> str:
    """The text of a file of the repository with links that hold on this page of the site."""

    def link(found: "re.Match[str]") -> str:
        mark, words, target = found.groups()
        words = _LINK.sub(link, words)
        if mark and target.endswith("-light.png"):  # and its twin for dark colours
            image = target_of(target, page, origin).removesuffix("-light.png")
            return f"![{words}]({image}-light.png#only-light)![{words}]({image}-dark.png#only-dark)"
        return f"{mark}[{words}]({target_of(target, page, origin)})"

    parts = _FENCE.split(text)  # text, indent, fence, text, …
    parts[::3] = [_LINK.sub(link, part) for part in parts[::3]]
    parts[1::3] = [""] * len(parts[1::3])
    return "".join(parts)


def target_of(link: str, page: str, origin: str) -> str:
    """The target of a link that stands on this page of the site, which is made of this file of the repository."""
    path, mark, anchor = link.partition("#")
    if "://" in path:
        return link
    if path in site.downloads or (path.startswith("schemas/") and origin == REFERENCE):
        return posixpath.relpath(path, posixpath.dirname(page))
    aim = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
    found = site.page_of(aim, anchor)
    if found is None:
        kind = "tree" if (ROOT / aim).is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{aim}{mark}{anchor}"
    target, anchor = found
    there = "" if target == page else posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"{there}{'#' if anchor else ''}{anchor}" or posixpath.basename(page)


def doors(text: str) -> str:
    """The table of docs/README.md as cards."""
    cards = []
    for name, links in _DOOR.findall(text):
        lines = "\n\n    ".join(links.split("<br>"))
        cards.append(f"-   **{name}**\n\n    {lines}")
    assert cards, "docs/README.md has no doors"
    return '<div class="grid cards doors" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>"


def description_of(text: str) -> str:
    """The first sentences of a page, or its headings, without marks."""
    text = re.sub(r"<!--.*?-->|<[^>]+>|!\[[^\]]*\]\([^)]*\)", "", _FENCE.sub("", text))
    _, lead, *_ = re.split(r"^#+ .*\n", text + "\n# \n", flags=re.MULTILINE)
    parts = [part for part in re.split(r"\n\s*\n", lead) if not part.lstrip().startswith(("#", "|"))]
    sentences = [one for part in parts for one in re.split(r"(?<=[.:?]) (?=[A-Z`])", plain(part)) if one]
    found = ""
    while sentences and len(found) + len(sentences[0]) < DESCRIPTION_CHARACTERS:
        one = sentences.pop(0)
        found += "" if one.endswith(":") else f" {one}"  # what follows is no sentence
    found = found.strip() or plain(" · ".join(re.findall(r"^##+ (.+)$", text, re.MULTILINE))) or sentences[0]
    return found if len(found) <= DESCRIPTION_CHARACTERS else f"{found[:DESCRIPTION_CHARACTERS].rpartition(' ')[0]} …"


def plain(text: str) -> str:
    """A text in Markdown without its marks."""
    return " ".join(re.sub(r"[`*]|(?:^|(?<=\s))- ", "", _LINK.sub(r"\2", text)).split())


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Shows a bar in the code of a table. Keeps out of the search the source of diagrams, and what is said twice."""
    html = _CELL.sub(lambda cell: _CODE.sub(lambda code: code[0].replace("\\|", "|"), cell[0]), html)
    if page.file.src_uri in site.details:
        html = html.replace("<h2 ", "<h2 data-search-exclude ")
    return html.replace(
        '<pre class="mermaid"><code>', f'<pre class="mermaid" data-search-exclude><code>{AS_LARGE_AS_ITS_TEXT}'
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Lets names in tables break after a dot or an underscore. Loads what draws diagrams where there are some."""
    output = _CELL.sub(lambda cell: _CODE.sub(lambda code: _BREAK.sub(r"\1<wbr>", code[0]), cell[0]), output)
    if site.mermaid is None or 'class="mermaid"' not in output:
        return output
    url = posixpath.relpath(MERMAID_URL, posixpath.dirname(page.url) or ".")
    return output.replace("</head>", f'<script src="{url}"></script></head>', 1)


# --- for programs that read


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Remembers the pages in their order."""
    site.nav = nav
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Writes llms.txt (llmstxt.org), a line for each page, and llms-full.txt, the pages themselves."""
    assert config.site_url
    lines, full = [f"# {config.site_name}", "", f"> {config.site_description}"], []
    section = None
    for page in site.nav.pages:
        top = page.ancestors[-1].title if page.ancestors else "Home"
        if top != section:
            lines += ["", f"## {top}", ""]
            section = top
        url = urljoin(config.site_url, page.url)
        lines.append(f"- [{page.title}]({url}): {page.meta['description']}")
        full.append(f"<!-- {url} -->\n\n{site.markdown[page.url]}\n")
    folder = Path(config.site_dir)
    (folder / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "llms-full.txt").write_text("\n".join(full), encoding="utf-8")
