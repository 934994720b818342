"""The wrong versions of a source file: each differs in one place inside one function.

A sign is dropped, a term of a sum is dropped, + and - or * and / are swapped, a comparison is
negated, a call whose value nobody uses is deleted, a constant is replaced, and a log-determinant
or log-density is doubled and negated.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

LOG_DET = "log-determinant"
LOG_DET_NAMES = ("log_det", "log_prob", "log_density")
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq}
COMPARISONS |= {ast.Is: ast.IsNot, ast.In: ast.NotIn}
COMPARISONS |= {new: old for old, new in COMPARISONS.items()}

# Functions whose numbers are free to choose.
EXAMPLES = ("examples", "extra_repr")

# A field of a node, and the index in it if it is a list.
Place = tuple[ast.AST, str, int | None]


@dataclass
class Mutant:
    """A function, and the node in it that becomes another one."""

    path: Path
    function: str
    kind: str
    place: Place
    old: ast.AST
    new: ast.AST
    tree: ast.Module

    def __str__(self) -> str:
        old, new = (" ".join(ast.unparse(node).split())[:90] for node in (self.old, self.new))
        return f"{self.old.lineno}: {self.kind}: {old}  =>  {new}"

    def code(self) -> dict[tuple[str, int], CodeType]:
        """The changed code by name and first line; for good, as the tree is changed.

        A property and its setter have one name, hence the line.
        """
        parent, field, index = self.place
        if index is None:
            setattr(parent, field, self.new)
        else:
            getattr(parent, field)[index] = self.new
        module = compile(ast.fix_missing_locations(self.tree), str(self.path), "exec")
        found, waiting = {}, [module]
        while waiting:
            code = waiting.pop()
            if code.co_qualname == self.function:
                found[self.function, code.co_firstlineno] = code
            waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        return found


def find_mutants(path: Path) -> Iterator[Mutant]:
    """All mutants of a file, in a fixed order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name, function in functions(tree):
        exact = set(log_dets(function))
        for place, old, in_log_det in nodes(function):
            for kind, new in changes(old):
                kind = LOG_DET if in_log_det and kind in ("operator", "sign", "term") else kind
                yield Mutant(path, name, kind, place, old, new, tree)
            if old in exact:
                zero = "zeros" in ast.unparse(old)  # twice zero would be no change
                for wrong in ("A + 1",) if zero else ("2 * A", "-A"):
                    yield Mutant(path, name, LOG_DET, place, old, fill(wrong, old), tree)


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by qualified name; a function inside another is part of that one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            if child.name not in EXAMPLES:
                yield prefix + child.name, child
        else:
            inner = f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix
            yield from functions(child, inner)


def nodes(function: ast.FunctionDef) -> Iterator[tuple[Place, ast.AST, bool]]:
    """The nodes of a body, each with its place and whether it is part of a log-determinant.

    Annotations, default values and the texts of errors are left out.
    """
    found = set(log_dets(function))
    waiting: list[tuple[ast.AST, bool]] = [(function, False)]
    while waiting:
        parent, inside = waiting.pop()
        for field, value in ast.iter_fields(parent):
            header = isinstance(parent, ast.FunctionDef | ast.Lambda) and field != "body"
            if header or field == "annotation":
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.AST) and not isinstance(node, ast.Raise | ast.JoinedStr):
                    yield (parent, field, index), node, inside or node in found
                    waiting.append((node, inside or node in found))


def log_dets(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The expressions that a function returns, or stores, as log-determinants or log-densities."""
    for node in ast.walk(function):
        match node:
            case ast.Return(ast.Tuple([*_, last])) if not isinstance(last, ast.Starred):
                if function.name in ("forward", "inverse", "replay") or named(function.name):
                    yield last
            case ast.Return(ast.AST() as value) if named(function.name):
                yield value
            case ast.Assign([ast.Name(name)], value) if named(name):
                yield value


def named(text: str) -> bool:
    return any(name in text for name in LOG_DET_NAMES)


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The kinds and results of the changes that a node allows.

    What is dropped stays in a lambda that nobody calls, so that a closure keeps its variables.
    """
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield "operator", ast.BinOp(left, OPERATORS[type(operator)](), right)
            if isinstance(operator, ast.Add | ast.Sub):
                yield "term", fill("(A, lambda: B)[0]", left, right)
            if isinstance(operator, ast.Add):
                yield "term", fill("(B, lambda: A)[0]", left, right)
        case ast.AugAssign(target, operator, value) if type(operator) in OPERATORS:
            yield "operator", ast.AugAssign(target, OPERATORS[type(operator)](), value)
        case ast.UnaryOp(ast.USub(), operand):
            yield "sign", operand
        case ast.Compare(left, [operator], others) if type(operator) in COMPARISONS:
            yield "comparison", ast.Compare(left, [COMPARISONS[type(operator)]()], others)
        case ast.Expr(ast.Call() as call):
            yield "deleted call", ast.Expr(fill("lambda: A", call))
        case ast.Constant(bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield "constant", ast.Constant(value + 1)


def fill(template: str, a: ast.AST, b: ast.AST | None = None) -> ast.AST:
    """An expression, with nodes in the place of A and B."""

    class Filling(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.AST:
            return {"A": a, "B": b}.get(name.id) or name

    return Filling().visit(ast.parse(template, mode="eval").body)
