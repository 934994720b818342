"""Ranges of numbers as a part of their types, and the check of arguments by the types they have.

    def blur(radius: Annotated[int, Range(1, 9)]) -> None: ...

The command line, saved settings and constructors all read the same annotation (see `limits`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`.

    Args:
        low: the least.
        high: the largest.
        above: whether `low` itself is left out.
        below: whether `high` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        least = value > self.low if self.above else value >= self.low
        most = value < self.high if self.below else value <= self.high
        return least and most and math.isfinite(value)

    def __str__(self) -> str:
        low, high = f"{self.low:,}", f"{self.high:,}"
        if self.high == math.inf:
            low = f"above {low}" if self.above else f"from {low} on"
            return "" if self.low == -math.inf else low
        if self.above:
            return f"above {low} and {'below' if self.below else 'at most'} {high}"
        return f"from {low} to {'below ' * self.below}{high}"


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, below=True)]
Fraction = Annotated[float, Range(0, 1)]
Proportion = Annotated[float, Range(0, 1, above=True, below=True)]
Bits = Annotated[int, Range(1, 8)]
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**63 - 1)]  # of torch, which takes one more, too
Seed32 = Annotated[int, Range(0, 2**32 - 1)]  # of NumPy's oldest generator and of scikit-learn
Port = Annotated[int, Range(1, 65_535)]


@functools.cache
def limits(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of those parameters, or fields, that limit numbers or name choices."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # of a foreign class, some types of which are imported for type checkers only
        return {}
    return {name: hint for name, hint in hints.items() if name != "return" and _limits(hint)}


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], prefix: str = ""
) -> None:
    """Refuse values of arguments, by name, that are outside of what their types say.

    Raises:
        ValueError: naming the argument, behind the prefix, its value and its range.
    """
    for name, hint in limits(function).items():
        if name in values:
            check_value(prefix + name, values[name], hint)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that checks its arguments before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # Python's own words, as the function itself has them
            given = {}
        check_arguments(function, given)
        return function(*args, **kwargs)

    return call


def check_value(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that is none of a type: a ValueError names it."""
    if not fits(value, hint):
        raise ValueError(f"{name} is {shown(value)}{near(value, hint)}: choose {describe(hint)}.")


def near(value: Any, hint: Any) -> str:
    """A suggestion of the choice that a wrong word may mean."""
    choices = [choice for part in alternatives(hint) for choice in _choices(part)]
    return suggestion(value, map(str, choices)) if isinstance(value, str) else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'moons'?)"` where a known name is close, otherwise nothing."""
    close = closest(name, known)
    return "" if close is None else f" (did you mean '{close}'?)"


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is closest to a name, whatever its case; None if none is close."""
    words = {word.casefold(): word for word in itertools.islice(known, 1_000)}
    close = difflib.get_close_matches(name[:100].casefold(), words, n=1, cutoff=cutoff)
    return words[close[0]] if close else None


def shown(value: Any) -> str:
    """A value in a sentence, which a long one does not fill."""
    text = repr(value.item() if getattr(value, "ndim", None) == 0 else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(hint: Any, many: bool = False) -> str:
    """What a type takes, in words: `a whole number from 1 on`."""
    words = [_describe(part, many) for part in alternatives(hint) if part is not NoneType]
    return " or ".join(dict.fromkeys(words))


def _describe(hint: Any, many: bool) -> str:
    inner, span = get_args(hint), _range(hint)
    if span is not None:
        noun = "whole number" if inner[0] is int else "number"
        finite = "finite " * (noun == "number" and span.high == math.inf)
        article = "" if many else "a "
        return f"{article}{finite}{noun}{'s' * many} {span}".rstrip()
    if choices := _choices(hint):
        words = map(str, choices)
        names = ", ".join(word if word[:1].isalnum() else repr(word) for word in words)
        return f"one of {names}" if len(choices) > 1 else names
    if _is_list(hint):
        fixed = get_origin(hint) is tuple and ... not in inner
        named = issubclass(get_origin(hint), Mapping)
        return f"{f'{len(inner)} ' if fixed else 'a list of '}{describe(inner[named], True)}"
    text = "texts" if many else "a text"
    known = {Any: "values", bool: "true or false", str: text, int: "a whole number"}
    name = getattr(hint, "__name__", str(hint))
    return known.get(hint) or f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; True for types that say nothing of values."""
    parts, span = alternatives(hint), _range(hint)
    if len(parts) > 1:
        return any(fits(value, part) for part in parts)
    if getattr(value, "ndim", None) == 0:  # a number of NumPy's or of torch's
        value = value.item()
    if span is not None:
        kind = Integral if get_args(hint)[0] is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and _in(value, span)
    if choices := _choices(hint):
        return isinstance(value, str | int) and value in choices
    if _is_list(hint):
        return _fits_list(value, get_args(hint), get_origin(hint))
    known = hint is not Any and inspect.isclass(hint) and not getattr(hint, "_is_protocol", False)
    return isinstance(value, hint) if known else True


def _fits_list(value: Any, inner: tuple[Any, ...], origin: Any) -> bool:
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(part, inner[1]) for part in value.values())
    if isinstance(value, str | Mapping):
        return False
    try:
        values = list(value)
    except TypeError:
        return False
    if origin is tuple and ... not in inner:
        return len(values) == len(inner) and all(map(fits, values, inner))
    return all(fits(part, inner[0]) for part in values)


def limits_numbers(hint: Any) -> bool:
    """Whether a type limits numbers."""
    return _contains(hint, lambda part: _range(part) is not None)


def _limits(hint: Any) -> bool:
    """Whether a type limits numbers, names choices, or is a class of diffeo's."""
    return limits_numbers(hint) or _contains(hint, _choices) or _contains(hint, _is_ours)


def _contains(hint: Any, holds: Callable[[Any], Any]) -> bool:
    """Whether something holds for a type, one of its alternatives, or the members of a list."""
    parts = alternatives(hint)
    if len(parts) == 1 and _is_list(hint):
        parts = get_args(hint)
    return bool(holds(hint)) or (parts != (hint,) and any(_contains(p, holds) for p in parts))


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _in(value: Any, span: Range) -> bool:
    try:
        return float(value) in span
    except OverflowError:  # of a whole number with hundreds of digits
        return False


def _range(hint: Any) -> Range | None:
    found = getattr(hint, "__metadata__", ())
    return next((part for part in found if isinstance(part, Range)), None)


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _is_ours(hint: Any) -> bool:
    ours = inspect.isclass(hint) and hint.__module__.startswith("diffeo.")
    return ours and not getattr(hint, "_is_protocol", False)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    return inspect.isclass(origin) and issubclass(origin, Sequence | Mapping)
