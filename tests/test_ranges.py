"""Each number that a user may give has a range in its type, and one sentence refuses any other."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

import diffeo
from diffeo.bijections import Affine, Permutation
from diffeo.cli import COMMANDS
from diffeo.cli.options import classes_of, members
from diffeo.cli.parser import make_parser, options_of, parse
from diffeo.data import DataOptions, generate
from diffeo.sklearn import FlowDensity, FlowOutlierDetector
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.utils.config import Configurable, known_classes
from diffeo.utils.ranges import Range, alternatives, check_value, describe, fits

MODELS = diffeo.MODELS
# What users call with numbers, besides classes that are saved by their arguments.
PUBLIC = ("flow", "distribution", "latent", "run", "scale", "sklearn", "data", "explorer", "export")
# Plain numbers that are checked with something else: (function, argument).
ELSEWHERE = {
    ("ContextSpec.of", "context"),  # with what else it may be
    ("ContextSpec.classes", "values"),
    ("Flow.sample", "context"),  # a class, which the context checks
    ("Flow.noise", "n"),  # torch refuses it, in a hot path
    ("FlowDistribution.expand", "batch_shape"),  # of torch, likewise
    ("FlowDistribution.sample", "sample_shape"),
    ("FlowDistribution.rsample", "sample_shape"),
    ("FlowDistribution.rsample_and_log_prob", "sample_shape"),
    ("augment", "shift"),  # `DataOptions.shift`
    ("size_of", "shape"),
    ("ImageSplit.all", "limit"),  # as of a slice
    ("Batches.set_epoch", "epoch"),
    ("draw", "temperature"),  # `TrainerOptions.temperature`
}


def has_plain_number(hint: Any) -> bool:
    """Whether a type has an int or a float in it that no range limits."""
    if any(isinstance(part, Range) for part in getattr(hint, "__metadata__", ())):
        return False
    if hint in (int, float):
        return True
    origin = get_origin(hint)
    if origin in (None, Literal) or "Callable" in str(origin):
        return False
    return any(has_plain_number(part) for part in get_args(hint) if part is not ...)


def numbers_in(hint: Any) -> Range | None:
    """The range of a type, of one of its alternatives or of the members of a list."""
    for part in alternatives(hint):
        for found in getattr(part, "__metadata__", ()):
            return found
        for inner in get_args(part) if get_origin(part) in (list, tuple, *SEQUENCES) else ():
            return numbers_in(inner)
    return None


SEQUENCES = (get_origin(typing.Sequence[int]),)


def options_with_types() -> Iterator[tuple[str, list[str], str, Any]]:
    """Each option of each command: the command, words before it, its name and its type."""
    for command in COMMANDS:
        options = options_of(command, make_parser(command))
        for name in options.actions:
            if not name.endswith("+") and (hint := options.hint(name, {})) is not None:
                yield command, [], name, hint
    seen = set()  # maps and bases, whose options are the same in every model
    for model in MODELS:
        classes = classes_of(options_of("train", make_parser("train")).hints["model"])
        hint = options_of("train", make_parser("train")).hints["model"]
        for key, inner in members(hint, model).items():
            yield "train", ["--model", model], f"--model.{key}", inner
            for name, cls in classes_of(inner).items():
                if name == cls.__name__ and (key, name) not in seen:
                    seen.add((key, name))
                    for last, kind in members(inner, name).items():
                        words = ["--model", model, f"--model.{key}", name]
                        yield "train", words, f"--model.{key}.{last}", kind
        assert classes


OPTIONS = [*options_with_types()]
NUMBERS = [option for option in OPTIONS if numbers_in(option[3]) is not None]


STRANGE = ("nan", "inf", "-inf", "1e400", "true")


def outside(span: Range, i: int) -> list[str]:
    """Numbers that are not in a range, as a user may write them; one of the strange ones."""
    found = [STRANGE[i % len(STRANGE)]]
    if math.isfinite(span.low):
        found.append(str(span.low if span.above else span.low - 1))
    if math.isfinite(span.high):
        found.append(str(span.high if span.below else span.high * 2))
    return found


def test_every_number_of_every_command_has_a_range_in_its_type():
    assert not [option[:3] for option in OPTIONS if has_plain_number(option[3])]
    assert len(NUMBERS) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_out_of_range_are_refused_by_name_and_value(command):
    for i, (name_of, words, name, hint) in enumerate(NUMBERS):
        if name_of != command:
            continue
        span = numbers_in(hint)
        listed = any(get_origin(part) in (list, tuple, *SEQUENCES) for part in alternatives(hint))
        for value in outside(span, i):
            given = f"[{value}]" if listed and "." in name else value
            run = ["somewhere"] if command not in ("train",) else []
            try:
                parse(command, [*run, *words, f"{name}={given}"])
                sentence = "taken"
            except ValueError as error:
                sentence = str(error)
            assert f"{name} is {given}" in sentence, (name, given, sentence)
            assert describe(hint) in sentence
            assert "typing" not in sentence and "class '" not in sentence


def public_callables() -> Iterator[tuple[str, Any]]:
    for name in PUBLIC:
        module = importlib.import_module(f"diffeo.{name}")
        for item in getattr(module, "__all__", [n for n in vars(module) if n[0] != "_"]):
            found = getattr(module, item)
            if not getattr(found, "__module__", "").startswith(f"diffeo.{name}"):
                continue
            if inspect.isfunction(found):
                yield item, found
            elif inspect.isclass(found) and not hasattr(found, "__dataclass_fields__"):
                for key, method in vars(found).items():
                    method = getattr(method, "__func__", method)
                    if inspect.isfunction(method) and (key == "__init__" or key[0] != "_"):
                        yield f"{item}.{key}", method


def test_every_number_of_the_library_has_a_range_that_is_checked():
    for module in pkgutil.walk_packages(diffeo.__path__, "diffeo."):
        if module.name.split(".")[1] in ("bijections", "models", "networks", "bases"):
            importlib.import_module(module.name)
    plain = []
    for cls in known_classes():
        if cls.__module__.startswith("diffeo."):
            hints = get_type_hints(cls.__init__, include_extras=True)
            plain += [(cls.__name__, key) for key, hint in hints.items() if has_plain_number(hint)]
    unchecked = []
    for name, function in public_callables():
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError:  # a name that only type checkers import
            continue
        hints.pop("return", None)
        plain += [(name, key) for key, hint in hints.items() if has_plain_number(hint)]
        constructor = name.startswith("Flow") and name.endswith("__init__")  # checked in `fit`
        if any(numbers_in(hint) for hint in hints.values()) and not constructor:
            unchecked += [name] if not hasattr(function, "__wrapped__") else []
    assert {*plain} - ELSEWHERE == set()
    assert unchecked == []


REFUSED = [
    (lambda: diffeo.RealNVP(2, layers=0), "layers is 0: choose a whole number from 1 on."),
    (lambda: diffeo.RealNVP(2, layers=True), "layers is True: choose a whole number from 1 on."),
    (
        lambda: diffeo.RealNVP(2, hidden=[0]),
        "hidden is [0]: choose a list of whole numbers from 1 on.",
    ),
    (lambda: diffeo.RealNVP(2, hidden=8), "hidden is 8: choose a list of whole numbers from 1 on."),
    (lambda: diffeo.RealNVP(2, univariate="Affine"), "univariate is 'Affine': choose a Univariate"),
    (
        lambda: diffeo.Glow((1, 8, 8), levels=9),
        "8x8 cannot be halved 9 times: take fewer levels.",
    ),
    (lambda: diffeo.Glow((8, 8)), "image_shape is (8, 8): choose 3 whole numbers from 1 on."),
    (
        lambda: diffeo.Glow((1, 8, 8), permutation="revers"),
        "permutation is 'revers' (did you mean 'reverse'?): choose one of invertible_conv, ",
    ),
    (
        lambda: diffeo.bijections.RationalQuadraticSpline(bins=0),
        "bins is 0: choose a whole number from 2 on.",
    ),
    (
        lambda: diffeo.bijections.RationalQuadraticSpline(bound=-1),
        "bound is -1: choose a finite number above 0.",
    ),
    (lambda: Affine(math.nan), "bound is nan: choose a finite number above 0."),
    (lambda: diffeo.bijections.ActNorm(2, 0.0), "scale is 0.0: choose a finite number above 0."),
    (lambda: diffeo.bijections.Flatten(2, 0), "shape is 0: choose a whole number from 1 on."),
    (lambda: Permutation.shuffle(3, -1), "seed is -1: choose a whole number from 0 to"),
    (lambda: diffeo.RealNVP(2).sample(-1), "n is -1: choose a whole number from 0 on."),
    (lambda: diffeo.RealNVP(2).sample(2, temperature=math.inf), "temperature is inf: choose a fin"),
    (lambda: OptimizerOptions(clip=-5), "clip is -5: choose a finite number above 0."),
    (lambda: OptimizerOptions(ema=1), "ema is 1: choose a number from 0 to below 1."),
    (lambda: TrainerOptions(max_epochs=0), "max_epochs is 0: choose a whole number from 1 on."),
    (lambda: DataOptions(seed=-1), "--data.seed is -1: choose a whole number from 0 to 4,294,967,"),
    (lambda: generate("moons", noise=0), "noise is 0: choose a finite number above 0."),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_numbers_out_of_range_are_refused_where_the_classes_are_used(call, sentence):
    with pytest.raises(ValueError, match=r" is |cannot") as error:
        call()
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("networks", -1, "'auto'|auto or a whole number|whole number from 0 on"),
        ("learning_rate", -1, "finite number above 0"),
        ("batch_size", 0, "whole number from 1 on"),
        ("max_iter", 0, "whole number from 1 on"),
        ("n_iter_no_change", 0, "whole number from 1 on"),
        ("random_state", -1, "whole number from 0 to"),
        ("hidden", "big", "whole number from 1 on or auto"),
    ],
)
def test_estimators_refuse_parameters_out_of_range_before_they_read_a_row(name, value, words):
    with pytest.raises(ValueError, match=f"^{name} is .*: choose .*({words})"):
        FlowDensity(**{name: value}).fit("no table")


def test_a_detector_refuses_a_share_out_of_range():
    for share in (0, 0.6, math.nan, True):
        with pytest.raises(ValueError, match=r"contamination is .*number above 0 and at"):
            FlowOutlierDetector(contamination=share).fit(np.zeros((9, 2)))


def test_numbers_of_numpy_and_torch_are_numbers():
    flow = diffeo.RealNVP(np.int64(2), layers=np.int32(2), hidden=np.array([4]))
    assert flow.dims == 2
    assert len(flow.sample(np.int64(3), temperature=torch.tensor(0.5))) == 3
    assert Affine(np.float32(2.0)).bound == 2.0


def test_a_model_of_ones_own_that_hands_options_on_has_their_ranges():
    class Mine(diffeo.RealNVP):
        def __init__(self, features, **options):
            super().__init__(features, **options)

    with pytest.raises(ValueError, match="layers is 0"):
        Mine(2, layers=0)
    assert issubclass(Mine, Configurable)


def test_a_range_says_what_it_holds():
    share = Annotated[float, Range(0, 1, below=True)]
    assert [fits(v, share) for v in (0, 0.5, 1, math.nan, math.inf, True, "0")] == [
        *(True, True),
        *[False] * 5,
    ]
    assert describe(share | None) == "a number from 0 to below 1"
    assert str(Range(0, above=True)) == "above 0"
    with pytest.raises(ValueError, match="x is 'b': choose one of a, c"):
        check_value("x", "b", Literal["a", "c"])
