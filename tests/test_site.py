"""The documentation builds as a site without a warning, holds all that is public, and is alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import PAGES, ROOT, resolve

API = ROOT / "docs" / "api"


def test_the_api_names_each_public_module():
    """Each name of `__all__` is rendered by the directive of its module, or by one of its own."""
    shown: set[str] = set()
    for page in sorted(API.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", text, re.MULTILINE):
            found, members = resolve(target), re.search(r"members: \[(.*)\]", options)
            names = members[1].split(", ") if members else getattr(found, "__all__", None)
            for name in names or []:
                assert hasattr(found, name), f"{target}.{name}"
            shown.update(names or [target.rpartition(".")[2]])
    for room in ["diffeo", *(f"diffeo.{room}" for room in _rooms())]:
        missing = set(resolve(room).__all__) - shown - {"__version__"}
        assert not missing, f"{room}: no page of docs/api shows {', '.join(sorted(missing))}"


def _rooms() -> list[str]:
    """The packages and modules that say what is public."""
    source = ROOT / "src" / "diffeo"
    paths = [*source.glob("*/__init__.py"), *source.glob("*.py")]
    return sorted(
        path.parent.name if path.name == "__init__.py" else path.stem
        for path in paths
        if path.parent != source or path.name != "__init__.py"
        if "__all__ = " in path.read_text(encoding="utf-8")
    )


def test_each_command_is_on_its_page():
    from diffeo.cli import COMMANDS

    text = (API / "commands.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"| `diffeo {command}` |" in text
        assert f"\n## {command}\n\n<!-- help: {command} -->\n" in text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs: pip install diffeo[docs]")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: pip install diffeo[docs]")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_asks_nothing_of_other_hosts(site):
    """Whatever a page loads by itself lies beside it; only links lead away."""
    loads = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"|<link\b([^>]+)>')
    for page in site.rglob("*.html"):
        for source, link in loads.findall(page.read_text(encoding="utf-8")):
            address = source
            if link and not re.search(r'rel="(canonical|prev|next)"', link):
                address = re.search(r'href="([^"]+)"', link)[1]
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", style.read_text("utf-8"))


@pytest.mark.parametrize("page", ["mathematics", "mathematics-maps"])
def test_no_formula_is_left_as_it_was_written(page, site):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    written = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    displayed = written.count("\n$$\n") // 2
    assert displayed > 10
    assert len(re.findall(r'<math [^>]*display="block"', text)) == displayed
    assert "arithmatex" not in text
    assert not re.search(r"\\[a-z]+\{", text)


def test_the_help_of_each_command_is_shown(site):
    from diffeo.cli import COMMANDS

    text = (site / "api" / "commands.html").read_text(encoding="utf-8")
    assert text.count("usage: diffeo ") == len(COMMANDS)


def test_no_listing_takes_the_place_of_a_page(site):
    text = (site / "examples" / "index.html").read_text(encoding="utf-8")
    assert "Files in examples" not in text
    assert "Worked problems</h1>" in re.sub(r"<a .*?</a>", "", text)


def test_the_reference_shows_examples_as_code_and_no_private_name(site):
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<blockquote>" not in text, f"{page.name}: write doctests below `Examples:`"
        assert not re.search(r'id="diffeo[\w.]*\._', text), page.name


def test_each_page_has_a_card_for_links_to_it(site):
    """With a figure, in the size that other sites show."""
    from PIL import Image

    with Image.open(site / "images" / "card.png") as card:
        assert card.size == (1200, 630)
    for page in site.rglob("*.html"):
        image = re.search(r'property="og:image" content="([^"]+)"', page.read_text("utf-8"))[1]
        if page.name != "404.html":  # whose links start at the root
            assert (page.parent / image).is_file()


def test_the_site_can_be_searched(site):
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "RationalQuadraticSpline" in index


def test_each_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in text
