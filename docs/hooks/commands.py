"""Commands: each `<!-- help: NAME -->` becomes that help, and blocks are coloured as a shell's.

Without a prompt, the colours of `console` are those of outputs, which are pale.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
HELP = re.compile(r"^<!-- help: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what `diffeo NAME --help` prints."""
    markdown = markdown.replace("```console\n", "```bash\n")
    return HELP.sub(lambda found: f"```text\n{_help(found[1])}\n```", markdown)


def _help(command: str) -> str:
    from diffeo.cli.parser import make_parser

    os.environ["COLUMNS"] = "96"  # so that no line is wider than its block
    return make_parser(command).format_help().strip()
