"""The options of a command, made from the signature and the docstring of its function `main`.

A parameter before the `*` is positional, any other an option: `part_rows` is `--part-rows`, and a
bool that is False by default is a flag. Where `main` hands `**options` on to another function,
jsonargparse takes the options of that function as well. The module of a command may also define
`add_options(parser)`, for options that are no parameters, `expand(words)`, which replaces short
forms, and `GONE`, which says what to write in place of former options.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from diffeo.utils.machine import limit_threads


class Parser(ArgumentParser):
    """Parses the options of one command.

    Attributes:
        names: the parameters of the command.
    """

    names: frozenset[str] = frozenset()
    main: Callable[..., None] | None = None  # while its parameters are added

    def add_main(self, main: Callable[..., None]) -> None:
        """Add an option for each parameter of a command."""
        self.main = main
        added = self.add_function_arguments(main, as_group=False, as_positional=True)
        self.main, self.names = None, frozenset(name.partition(".")[0] for name in added)

    def add_argument(self, *names: str, **options: Any) -> Any:
        """Add an option; one that stands for a parameter is spelled as commands spell it."""
        main = getattr(self, "main", None)  # jsonargparse's groups take this method over
        if main is not None and "." not in names[0]:
            name = names[0].removeprefix("--")
            parameter = inspect.signature(main).parameters.get(name)
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

    def add_alias(self, alias: str, option: str) -> None:
        """Let an option have a second name."""
        action = self._option_string_actions[option]
        action.option_strings = [alias, *action.option_strings]
        self._option_string_actions[alias] = action

    def explain(self, option: str, text: str, metavar: str | None = None) -> None:
        """Change the help of an option; `SUPPRESS` leaves it out."""
        action = self._option_string_actions[option]
        action.help, action.metavar = text, metavar

    def join_lists(self, words: Iterable[str]) -> list[str]:
        """Lists as the parser reads them: `--strengths -1,0` becomes `--strengths=["-1", "0"]`."""
        result, rest = [], iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if name == "--data.delimiter" and name not in self._option_string_actions:
                word = f"--delimiter{equals}{value}"  # errors of tables name that of `train`
            if f"{name}+" in self._option_string_actions:  # so jsonargparse marks a list
                value = value if equals else next(rest, "")
                if not value.startswith("["):
                    value = json.dumps(value.split(","))
                word = f"{name}={value}"  # one word, since a list may begin with a minus sign
            result.append(word)
        return result

    def format_help(self, *formatter: Any) -> str:
        """The help, with the names of presets and of shipped models filled in."""
        from diffeo.pretrained import zoo
        from diffeo.run import presets

        for action in self._actions:
            for key, names in (("{zoo}", zoo.names()), ("{presets}", presets.names())):
                action.help = action.help and action.help.replace(key, ", ".join(names))
        return super().format_help(*formatter)


def make_parser(name: str) -> Parser:
    """The parser of one command."""
    module = _module(name)
    parser = Parser(
        prog=f"diffeo {name}",
        description=(inspect.getdoc(module.main) or "").partition("\n\nArgs:")[0],
        exit_on_error=False,
        allow_abbrev=False,  # an abbreviated --config would not be checked (see `settings`)
    )
    parser.add_main(module.main)
    if hasattr(module, "add_options"):
        module.add_options(parser)
    parser.usage = f"diffeo {name}{' RUN' if 'run' in parser.names else ''} [options]"
    return parser


def parse(name: str, words: Iterable[str], parser: Parser | None = None) -> Namespace:
    """The options of a command, from the words after its name; ValueError if they are wrong."""
    module, parser = _module(name), parser or make_parser(name)
    words = parser.join_lists(words)
    words = module.expand(words) if hasattr(module, "expand") else words
    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        for option, remedy in getattr(module, "GONE", {}).items():
            if any(word.partition("=")[0] == option for word in words):
                raise ValueError(f"{option} is no longer an option: {remedy}.") from error
        raise ValueError(_sentence(error)) from error


def run_command(name: str, words: Iterable[str]) -> None:
    """Run a command with the words that follow its name."""
    parser = make_parser(name)
    options = parser.instantiate(parse(name, words, parser))
    limit_threads()
    _module(name).main(**{parameter: options[parameter] for parameter in parser.names})


def _sentence(error: ArgumentError) -> str:
    """The reason in the text of jsonargparse, which lists all types that a value could have."""
    text = " ".join(str(error).split())
    option = "--" + ".".join(re.findall(r'Parser key "([\w.]+)"', text))
    if found := re.search(r"Option '(\w+)' is not accepted", text):
        return f"{option}.{found[1]} is not an option: leave it out, or choose another class."
    if found := re.search(r"Expected a dot import path string: (.*?) - ", text):
        return f"{option} is {found[1]}: there is no class of that name."
    kind = re.search(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", text)
    value = re.search(
        r"(?:Got|Given) value: (?!Namespace|NestedArg)(.*?)(?=\.? Got value: |$)", text
    )
    if kind is None or value is None:
        return text
    return f"{option} is {value[1]}: expected {kind[1] or f'one of {kind[2]}'}."


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"diffeo.cli.commands.{name}")
