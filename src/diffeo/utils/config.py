"""What an object was made with, as a tree of plain values, and the object made from it again.

    {"class": "diffeo.Coupling", "arguments": {"split": {"class": ...}, ...}}

Only classes that say so may stand in a tree (see `Configurable`), and nothing in it is code.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, Self

from diffeo.utils.ranges import check_value, limits

PLAIN = (type(None), bool, int, float, str)


class Configurable:
    """Remembers what its constructor was called with, so that a model can be written to disk.

    Attributes:
        arguments: by name, defaults included.
    """

    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = object.__new__(cls)
        signature = _signature(cls)  # type: ignore[arg-type]
        bound = signature.bind_partial(made, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name)
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[name]:
                del arguments[name]
        _check(cls, signature, arguments)
        object.__setattr__(made, "arguments", arguments)
        return made

    def extra_repr(self) -> str:
        """The arguments that are plain values, in the `repr` of a module."""
        plain = {k: v for k, v in self.arguments.items() if isinstance(v, PLAIN) and v is not None}
        return ", ".join(f"{name}={value!r}" for name, value in plain.items())

    def _record(self, **chosen: Any) -> None:
        """Record what was chosen for arguments of None: defaults may change, a saved model may not.

        Only for those of the class itself: the constructor of a subclass may have fewer.
        """
        for name, value in chosen.items():
            if name in self.arguments and self.arguments[name] is None:
                self.arguments[name] = value


def _check(cls: type, signature: inspect.Signature, arguments: dict[str, Any]) -> None:
    """Refuse arguments outside of what their types say, those handed on to other classes too.

    Raises:
        ValueError: then.
    """
    hints: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent) and issubclass(parent, Configurable):
            hints |= limits(parent.__init__)  # type: ignore[misc]
    for name, value in arguments.items():
        parameter = signature.parameters.get(name)
        several = parameter is not None and parameter.kind is parameter.VAR_POSITIONAL
        for each in value if several else [value]:
            if several and isinstance(each, list | tuple):
                one_by_one = f"{cls.__name__}(*{name})"
                raise ValueError(f"{name} is a list: pass its parts one by one, {one_by_one}.")
            if name in hints:
                check_value(name, each, hints[name])


@cache
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.__init__)  # type: ignore[misc]


def public_name(cls: type) -> str:
    """`diffeo.RealNVP` for ours, wherever the class lives inside; the full path for others."""
    if cls.__module__.startswith("diffeo."):
        return f"diffeo.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def to_config(value: Any) -> Any:
    """The tree of an object.

    Raises:
        ValueError: if something in it has no form there, such as a module of torch's own.
    """
    if getattr(value, "ndim", None) == 0:  # a number of NumPy's
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [to_config(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_config(item) for key, item in value.items()}
    if isinstance(value, Configurable):
        return {"class": public_name(type(value)), "arguments": to_config(value.arguments)}
    made = partial(value) if inspect.isclass(value) else value
    if (
        isinstance(made, partial)
        and inspect.isclass(made.func)
        and issubclass(made.func, Configurable)
        and not made.args
    ):
        return {"partial": public_name(made.func), "arguments": to_config(made.keywords)}
    if callable(getattr(value, "state_dict", None)):  # a module, whose text has many lines
        name = type(value).__name__
        raise ValueError(
            f"{name} has no form in a model's configuration: make it in a class of your own, of "
            "diffeo.utils.config.Configurable and torch.nn.Module, with arguments that have one."
        )
    raise ValueError(
        f"{value!r} has no form in a model's configuration: use numbers, strings, lists of them, "
        "dictionaries by strings, and classes of diffeo's."
    )


def from_config(tree: Any, trust: bool = False) -> Any:
    """The object of a tree; of `partial`, the class with some of its arguments.

    Args:
        tree: what `to_config` returned.
        trust: whether a class that has not been imported may be, which runs its code.

    Raises:
        ValueError: if a class is unknown.
    """
    if isinstance(tree, list):
        return [from_config(item, trust) for item in tree]
    if not isinstance(tree, dict):
        return tree
    values = {name: from_config(item, trust) for name, item in tree.items() if name != "class"}
    if "partial" in tree:
        cls, arguments = find_class(tree["partial"], trust), values["arguments"]
        return partial(cls, **arguments) if arguments else cls
    if "class" not in tree:
        return values
    cls = find_class(tree["class"], trust)
    arguments = values["arguments"]
    several = [p.name for p in _signature(cls).parameters.values() if p.kind is p.VAR_POSITIONAL]
    positional = arguments.pop(several[0], ()) if several else ()
    return cls(*positional, **arguments)


def find_class(name: str, trust: bool = False) -> type:
    """The class of a name in a tree, among those imported; it is imported first if `trust`.

    Raises:
        ValueError: if there is none, or it cannot be imported.
    """
    if name.startswith("diffeo."):
        # The package imports a model when it is asked for one.
        getattr(sys.modules["diffeo"], name.removeprefix("diffeo."), None)
    if name not in _known() and trust:
        try:
            importlib.import_module(name.rpartition(".")[0])
        except (ImportError, ValueError) as error:
            raise ValueError(f"it names {name}, which cannot be imported: {error}") from error
    known = _known()
    if name not in known:
        raise ValueError(
            f"it names the class {name}, which is none of diffeo's: import it first, or, if you "
            "trust where the model comes from, load it with trust=True (--trust)."
        )
    return known[name]


def known_classes(cls: type[Any] = Configurable) -> Iterator[type[Any]]:
    """All classes that may stand in a tree, as far as they are imported."""
    for child in cls.__subclasses__():
        yield child
        yield from known_classes(child)


def _known() -> dict[str, type]:
    return {public_name(cls): cls for cls in known_classes()}
