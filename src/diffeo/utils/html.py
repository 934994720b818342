"""HTML of modules and of tables, for notebooks with light and with dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from torch import Tensor, nn

from diffeo.utils.text import printable

MOST = 400  # modules in a tree: deeper ones are counted, and not listed
LONGEST = 90  # characters of the arguments of a module

# Colours are those of the page, or a grey that can be read on any.
STYLE = """<style>
.diffeo {font-size: 13px; line-height: 1.5; color: inherit}
.diffeo summary {cursor: pointer}
.diffeo summary::marker {color: #888}
.diffeo .part {margin-left: .45em; padding-left: .9em; border-left: 1px solid rgba(128,128,128,.4)}
.diffeo .leaf {margin-left: 1.05em}
.diffeo .less {opacity: .7}
.diffeo code {font-family: monospace; background: none; color: inherit; padding: 0}
.diffeo table {border-collapse: collapse; margin: .4em 0}
.diffeo td, .diffeo th {padding: .1em 1.2em .1em 0; text-align: left; vertical-align: top}
.diffeo th {font-weight: normal; opacity: .7}
</style>"""


def page(*parts: str) -> str:
    """Pieces of HTML under one style."""
    return f'{STYLE}<div class="diffeo">{"".join(parts)}</div>'


def text(value: object, longest: int | None = None) -> str:
    """A value as text that is shown as it is: control characters and markup have no effect."""
    shown = printable(str(value))
    if longest is not None and len(shown) > longest:
        shown = f"{shown[: longest - 1]}…"
    return escape(shown)


def heading(title: object, facts: Iterable[object]) -> str:
    """A title, and what there is to know in one line."""
    line = " · ".join(text(fact) for fact in facts)
    return f'<div><b>{text(title)}</b></div><div class="less">{line}</div>'


def line(value: object) -> str:
    """A line of text."""
    return f"<div>{text(value)}</div>"


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells under headings."""
    above = "".join(f'<th scope="col">{text(cell)}</th>' for cell in headings)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>"


def folded(title: object, inner: str) -> str:
    """HTML that is shown when its title is pressed."""
    return f'<details><summary>{text(title)}</summary><div class="part">{inner}</div></details>'


def tree(module: nn.Module) -> str:
    """The parts of a module: names, classes, arguments, weights, and shapes of their tensors.

    Each part can be opened; the first level is open. Of large modules the deepest parts are
    counted, and not listed.
    """
    return "".join(_part(name, part, _depth(module), 1) for name, part in _children(module))


def weights(module: nn.Module) -> str:
    """How many weights a module has."""
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count:,} weight{'s' * (count != 1)}" if count else ""


def shape(values: Iterable[int]) -> str:
    """A shape, such as 3 x 32 x 32."""
    return " × ".join(map(str, values)) or "one number"


def _depth(module: nn.Module) -> int:
    """How deep parts are listed, so that they are not more than `MOST`."""
    depths = [name.count(".") + 1 for name, _ in module.named_modules() if name]
    deepest, total = 1, 0
    for depth in range(1, max(depths, default=1) + 1):
        total += depths.count(depth)
        if total > MOST:
            break
        deepest = depth
    return deepest


def _part(name: str, module: nn.Module, deepest: int, depth: int) -> str:
    line = [f"<code>{text(name)}</code>", f"<b>{text(type(module).__name__)}</b>"]
    if arguments := module.extra_repr():
        line.append(f'<span class="less">{text(arguments, LONGEST)}</span>')
    if counted := weights(module):
        line.append(f"<span>{counted}</span>")
    inner = "".join(_tensor(*pair) for pair in _tensors(module))
    if depth < deepest:
        children = _children(module)
        inner += "".join(_part(child, part, deepest, depth + 1) for child, part in children)
    elif hidden := sum(1 for _ in module.modules()) - 1:
        inner += f'<div class="leaf less">{hidden:,} parts that are not listed</div>'
    shown = " ".join(line)
    if not inner:
        return f'<div class="leaf">{shown}</div>'
    opened = " open" * (depth == 1)
    return f'<details{opened}><summary>{shown}</summary><div class="part">{inner}</div></details>'


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a module; those of a list are parts of its owner."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{place}", part) for place, part in child.named_children())
        else:
            yield name, child


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of a module itself, without those of its parts."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _tensor(name: str, tensor: Tensor) -> str:
    kind = "" if isinstance(tensor, nn.Parameter) else ", fixed"
    return f'<div class="leaf less"><code>{text(name)}</code> {shape(tensor.shape)}{kind}</div>'
