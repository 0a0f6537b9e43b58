"""The files that pages load: what is vendored is unchanged and has its licence, and all of it is small."""

import hashlib
import re

import pytest

from relay.web.rendering import HERE, MEDIA_TYPES, asset, static_files

VENDOR = HERE / "static" / "vendor"
DIGESTS = {
    "htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "hx-sse.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
    "inter-latin-wght-normal.woff2": "3100e775e8616cd2611beecfa23a4263d7037586789b43f035236a2e6fbd4c62",
}
"""SHA-256 of the vendored files, as README.md there says where they come from."""
LONG = {"accept-encoding": "gzip"}


def test_vendored_files_are_unchanged():
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.suffix in MEDIA_TYPES
    }
    assert found == DIGESTS


def test_vendored_files_have_a_version_and_a_licence():
    readme = (VENDOR / "README.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (\S+) \| (\d+\.\d+\.\d+) \| .*\[(LICENSE\.\w+)\]", readme, re.MULTILINE)
    named = {name: licence for names, _, _, licence in rows for name in names.split(", ")}
    assert named.keys() == DIGESTS.keys()
    for licence in named.values():
        assert (VENDOR / licence).stat().st_size > 500


def test_files_name_no_other_host():
    """Comments, namespaces and messages may have URLs; what is loaded may not."""
    for name, (body, _) in static_files().items():
        text = body.decode("latin-1")
        assert not re.search(r"""url\(\s*["']?(?!data:|favicon|["']?data:)[a-z]*:?//""", text), name
        assert not re.search(r"@import|sourceMappingURL|\beval\(|document\.write", text), name


@pytest.mark.parametrize("name", sorted(static_files()))
async def test_file_is_served_for_ever_by_its_digest(name, browser):
    body, kind = static_files()[name]
    plain = await browser.client.get(asset(name), headers={"accept-encoding": "identity"})
    packed = await browser.client.get(asset(name), headers=LONG)
    for answer in (plain, packed):
        assert answer.status_code == 200
        assert answer.content == body  # the client unpacks
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert packed.headers["content-encoding"] == "gzip"
    assert hashlib.sha256(body).hexdigest()[:12] in asset(name)


def test_stylesheet_names_files_by_their_digests():
    """Else the font and the logo would be asked for again on every page."""
    css = static_files()["relay.css"][0].decode()
    named = re.findall(r"url\(([^)]*)\)", css)
    assert len(named) >= 2
    assert {one.strip('"') for one in named} <= {asset(name).removeprefix("/ui/static/") for name in static_files()}


def test_every_page_loads_the_font_that_the_stylesheet_names():
    font = asset("vendor/inter-latin-wght-normal.woff2")
    assert "asset('vendor/inter-latin-wght-normal.woff2')" in (HERE / "templates/head.html").read_text()
    for template in ("base.html", "bare.html"):
        assert '{% include "head.html" %}' in (HERE / "templates" / template).read_text()
    assert font.removeprefix("/ui/static/") in static_files()["relay.css"][0].decode()


async def test_no_other_file_is_served(browser) -> None:
    for path in ["", "none.js", "../app.py", "..%2fapp.py", "vendor/LICENSE.htmx", "vendor/", "%00"]:
        answer = await browser.client.get(f"/ui/static/{path}")
        assert answer.status_code == 404
        assert "Traceback" not in answer.text


def test_stylesheet_has_no_class_that_no_page_uses():
    css = re.sub(r"/\*.*?\*/|url\([^)]*\)", "", (HERE / "static" / "relay.css").read_text(), flags=re.DOTALL)
    classes = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\{[^{}]*\}", "{}", css)))
    sources = [*HERE.rglob("*.html"), *HERE.rglob("*.py"), *HERE.rglob("relay.js"), *HERE.rglob("*.yaml")]
    words = {word for path in sources for word in re.findall(r"[a-z][\w-]*", path.read_text())}
    made_of_numbers = {name for name in classes if re.fullmatch(r"(line|key)-\d", name)}
    assert classes - words - made_of_numbers == set()
