"""Words that DESIGN.md rules out are used for no name and in no message.

Names are identifiers and files, in the package and around it; messages are the strings of the
package: errors, help, options. Comments and docstrings are free, but for a module's first line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A word also stands for its plural.
WORDS = ["door", "bend", "bent", "cut", "kept", "told", "said", "way", "beside", "together"]
WORDS += ["later", "sheet", "codes", "lookout", "still", "within", "picture"]
# The key of a file that version 0.1.0 wrote.
ALLOWED = {("src/diffeo/evaluation/scores.py", "codes")}


def offences(text: str) -> set[str]:
    """The words that are ruled out in a name or a sentence: `kept_rows` and `KeptRows` say kept."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text).replace("_", " ").lower()
    found = set(re.findall(r"[a-z]+", words))
    return {word for word in WORDS if {word, f"{word}s"} & found}


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a file gives a name to, with the line; names that it only uses are defined elsewhere."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a file, those inside f-strings too, and the first line of its docstring."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
    yield 1, (ast.get_docstring(tree) or "").partition("\n")[0]


def offenders(root: Path) -> list[str]:
    found = []
    for folder in ("src/diffeo", "tests", "benchmarks", "examples"):
        for path in sorted((root / folder).rglob("*.py")):
            file, tree = path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))
            texts = [(0, str(path.relative_to(root / folder))), *names(tree)]
            texts += messages(tree) if folder == "src/diffeo" else []
            if path != Path(__file__):
                found += [
                    f"{file}:{line}: {word}: {text.strip()[:80]!r}"
                    for line, text in texts
                    for word in sorted(offences(text))
                    if (str(file), word) not in ALLOWED
                ]
    return found


def test_no_name_and_no_message_uses_a_word_that_is_ruled_out():
    found = offenders(ROOT)
    assert not found, "\n".join(found)


def test_prose_says_image():
    """Not picture, in comments and on pages as well; the list of changes names what was."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    found = [
        str(path.relative_to(ROOT))
        for path in pages
        if path.name != "CHANGELOG.md" and re.search(r"(?i)pictures?\b", path.read_text("utf-8"))
    ]
    assert not found


def test_offenders_are_found(tmp_path):
    (tmp_path / "src" / "diffeo").mkdir(parents=True)
    (tmp_path / "src" / "diffeo" / "later.py").write_text(
        '"""The door.\n\nThe same way."""\n'
        "def f(keptRows, bucket):\n"
        '    """It is still told together."""\n'
        '    raise ValueError(f"{bucket} lies within it.")  # the other way\n'
    )
    assert [found.split(": ")[:2] for found in offenders(tmp_path)] == [
        ["src/diffeo/later.py:0", "later"],
        ["src/diffeo/later.py:4", "kept"],
        ["src/diffeo/later.py:6", "within"],
        ["src/diffeo/later.py:1", "door"],
    ]
