"""YAML of settings, as plain values.

It makes nothing but numbers, strings, lists and dictionaries. A small file may stand for much, by
aliases, or be nested deeper than any parser follows: it is refused before it unfolds.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES, DEEPEST = 100_000, 50  # once aliases are followed, and levels

# Of libyaml where it is there, as jsonargparse has it: events come in turn, not in recursion.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def dump_yaml(value: Any) -> str:
    """The YAML text of plain values, which every reader understands alike.

    A text that looks like a number to some, such as 1e3, is written in quotes.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that another reader of YAML would take for numbers."""

    def represent_text(self, text: str) -> yaml.Node:
        try:
            float(text)
        except ValueError:
            return self.represent_str(text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _Dumper.represent_text)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text without tags of Python's.

    Raises:
        ValueError: if it is none, nested too deeply, or its aliases unfold into too much.
    """
    try:
        _check_size(text)
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split()) or "it is nested too deeply"
        raise ValueError(f"it is no YAML of plain values ({reason})") from error


def _check_size(text: str) -> None:
    """Refuse a text that is deep, or that stands for more values than settings have."""
    counts = [0]  # of each collection that is open, and of the whole
    anchors: list[str | None] = []  # of those that are open
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = counts.pop()
            sizes[anchors.pop()] = size
            counts[-1] += size
        elif isinstance(event, yaml.AliasEvent):
            # One that holds itself has no size yet.
            counts[-1] += sizes.get(event.anchor, MOST_VALUES)
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            sizes[event.anchor] = 1
        if len(counts) > DEEPEST or sum(counts) > MOST_VALUES:
            raise ValueError(
                f"it unfolds into more than {MOST_VALUES:,} values, or {DEEPEST} levels"
            )
