"""The options of a command, made from the signature and the docstring of its function `main`.

A parameter before the `*` is positional, any other an option: `part_rows` is `--part-rows`, and a
bool that is False by default is a flag. A command with a parameter `run` gets the run opened, and
the options of `open_run`. The module of a command may also define `FIXED`, arguments of `open_run`
that are no options, `WITHOUT`, which says why there is no such option, `add_options(parser)`, for
options that are no parameters, `expand(words)`, which replaces short forms, `PLACES`, the words
before the options, and `GONE`, which says what to write in place of former options.
"""

from __future__ import annotations

import importlib
import inspect
import json
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence, Set
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from diffeo.cli.options import Options
from diffeo.run import Run
from diffeo.utils.console import PlainConsole
from diffeo.utils.machine import Device, Precision, find_device, limit_threads, networks_dtype


def open_run(
    run: str, *, precision: Precision = "auto", device: Device = "auto", trust: bool = False
) -> Run:
    """The run, with its model on a device and in a precision.

    Args:
        run: A run folder or a model folder. If there is none of that name: a model that ships with
            diffeo, such as mnist, or owner/name on the Hugging Face hub.
        precision: The precision of the networks, float32 or bf16 (bfloat16); the rest of the flow
            stays in float32. auto is float32: bf16 was measured to change the bits/dim of trained
            models by up to 0.03.
        device: The device that computes; auto is a GPU if there is one.
        trust: Import the model's class even if it is not one of diffeo's: this runs its code.
    """
    opened = Run(run, trust=trust)
    opened.flow.to(find_device(device)).set_precision(networks_dtype(precision))
    return opened


OF_RUN = frozenset(inspect.signature(open_run).parameters)


class Parser(ArgumentParser):
    """Parses the options of one command.

    Attributes:
        names: the parameters of the command, and those of `open_run` if it takes a run.
    """

    names: frozenset[str] = frozenset()
    function: Callable[..., Any] | None = None  # while its parameters are added

    def add_parameters(self, function: Callable[..., Any], skip: Set[str]) -> None:
        """Add an option for each parameter of a function."""
        self.function = function
        added = self.add_function_arguments(
            function, as_group=False, as_positional=True, skip=set(skip)
        )
        self.function = None
        self.names |= {name.partition(".")[0] for name in added}

    def add_argument(self, *names: str, **options: Any) -> Any:
        """Add an option; one that stands for a parameter is spelled as commands spell it."""
        function = getattr(self, "function", None)  # jsonargparse's groups take this method over
        if function is not None and "." not in names[0]:
            name = names[0].removeprefix("--")
            parameter = inspect.signature(function).parameters.get(name)
            positional = parameter and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            if options.get("type") is bool:
                options = {"action": "store_true", "help": options["help"]}
            if positional and names[0] != name:  # it has a default
                names, options["nargs"] = (name,), "?"
            elif name == "num":
                names = ("-n", "--num")
            else:
                names = tuple(word.replace("_", "-") for word in names)
        return super().add_argument(*names, **options)

    def join_lists(self, words: Iterable[str]) -> list[str]:
        """Lists as the parser reads them: `--strengths -1,0` becomes `--strengths=["-1", "0"]`."""
        result, rest = [], iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if f"{name}+" in self._option_string_actions:  # so jsonargparse marks a list
                value = value if equals else next(rest, "")
                if not value.startswith("["):
                    value = json.dumps(value.split(","))
                word = f"{name}={value}"  # one word, since a list may begin with a minus sign
            result.append(word)
        return result


def classes_first(words: Sequence[str]) -> list[str]:
    """Words in the order that the parser needs: `--model NAME` before each `--model.OPTION`."""
    result: list[str] = []
    rest = list(words)
    while rest:
        option = [rest.pop(0)]
        name, equals, _ = option[0].partition("=")
        if name.startswith("--") and not equals and rest and not rest[0].startswith("--"):
            option.append(rest.pop(0))
        places = [i for i, word in enumerate(result) if word.startswith(f"{name}.")]
        at = places[0] if places and name.startswith("--") else len(result)
        result[at:at] = option
    return result


WIDEST = 10_000  # characters of a line


def make_parser(name: str) -> Parser:
    """The parser of one command."""
    module = _module(name)
    parser = Parser(
        prog=f"diffeo {name}",
        description=(inspect.getdoc(module.main) or "").partition("\n\nArgs:")[0],
        exit_on_error=False,
        allow_abbrev=False,  # an abbreviated --config would not be checked (see `settings`)
    )
    takes_run = "run" in inspect.signature(module.main).parameters
    if takes_run:
        parser.add_parameters(open_run, getattr(module, "FIXED", {}).keys())
    parser.add_parameters(module.main, {"run"})
    if hasattr(module, "add_options"):
        module.add_options(parser)
    parser.usage = f"diffeo {name}{getattr(module, 'PLACES', ' RUN' * takes_run)} [options]"
    return parser


def parse(name: str, words: Iterable[str], parser: Parser | None = None) -> Namespace:
    """The options of a command, from the words after its name; ValueError if they are wrong."""
    module, parser = _module(name), parser or make_parser(name)
    options = options_of(name, parser)
    typed = options.given([*words])
    words = classes_first(parser.join_lists(words))
    words = module.expand(words) if hasattr(module, "expand") else words
    given = options.given(words) if hasattr(module, "expand") else typed
    try:
        parsed = parser.parse_args(words)
    except (ArgumentError, OverflowError) as error:
        for option, reason in getattr(module, "WITHOUT", {}).items():
            if option in dict(given):
                raise ValueError(f"{option} is no option of {name}: {reason}.") from error
        for option, remedy in getattr(module, "GONE", {}).items():
            if option in dict(given):
                raise ValueError(f"{option} is no longer an option: {remedy}.") from error
        raise ValueError(options.wrong(given) or " ".join(str(error).split())) from error
    if sentence := options.out_of_range(given):
        raise ValueError(sentence)
    return parsed


def options_of(name: str, parser: Parser) -> Options:
    """What the options of a command may be."""
    return Options(name, [open_run, _module(name).main], parser._actions)


def run_command(name: str, words: Iterable[str]) -> None:
    """Run a command with the words that follow its name, and print what it yields."""
    module, parser = _module(name), make_parser(name)
    options = parser.instantiate(parse(name, words, parser))
    limit_threads()
    arguments = {key: options[key] for key in parser.names}
    if "run" in arguments:
        opening = {key: arguments.pop(key) for key in OF_RUN & parser.names}
        arguments["run"] = open_run(**opening, **getattr(module, "FIXED", {}))
    console = PlainConsole()
    for what in module.main(**arguments) or ():
        # Of any width: a terminal wraps a long line, and no number is shortened.
        needed = console.measure(what, options=console.options.update_width(WIDEST)).maximum
        wide = PlainConsole(width=max(console.width, needed))
        wide.print(what, highlight=False, soft_wrap=isinstance(what, str))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"diffeo.cli.commands.{name}")


def add_short(parser: Parser, section: str, *names: str) -> None:
    """Give options of a section a short name too: `--device` for `--trainer.device`."""
    actions = parser._option_string_actions
    for name in names:
        action = actions[f"--{name}"] = actions[f"--{section}.{name}"]
        action.option_strings = [f"--{name}", *action.option_strings]
