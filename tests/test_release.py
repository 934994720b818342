"""What names the version names the same one."""

import re
from pathlib import Path

import yaml

from diffeo.utils.version import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()


def test_the_newest_changes_are_of_this_version():
    """A version in the making ends in .dev0, and its entry has no date."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, when = re.search(r"^## (\S+) \((.+)\)$", text, re.MULTILINE).groups()
    assert version == __version__.removesuffix(".dev0")
    if __version__ != version:
        assert when == "unreleased"
    else:
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", when)
