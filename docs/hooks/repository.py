"""Pages and files of the repository that lie outside of docs/, with links that hold in both.

On the site README is the front page. Markdown is written for the repository, where a link names a
file; here such a link is turned to the file's place on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CITATION.cff": "CITATION.cff",
}
FOLDERS = ("benchmarks/results", "examples")
LISTING = "# Files in {folder}\n\n{files}\n"
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add what the pages link to."""
    for source, place in _places().items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
        else:
            names = sorted(path.name for path in (ROOT / source).glob("*.*"))
            listed = "\n".join(f"- [{name}]({name})" for name in names)
            text = LISTING.format(folder=source, files=listed)
            files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links within the repository to their places on the site."""
    places = _places()
    here = {place: source for source, place in places.items()}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        place = places.get(target)
        if place is None and target.startswith("docs/"):
            place = target.removeprefix("docs/")
        if place is None:
            return match[1]
        return posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(turned, markdown)


def _places() -> dict[str, str]:
    """Of each file or folder outside of docs/ that is on the site, its place there."""
    found = dict(PAGES)
    for folder in FOLDERS:
        taken = (ROOT / "docs" / folder / "index.md").is_file()
        found[folder] = f"{folder}/files.md" if taken else f"{folder}/index.md"
        for path in sorted((ROOT / folder).glob("*.*")):
            name = path.relative_to(ROOT).as_posix()
            found[name] = name
    return {source: place for source, place in found.items() if (ROOT / source).exists()}
