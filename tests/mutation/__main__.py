"""Change the formulas one at a time, and see whether the tests notice.

    python tests/mutation                       all mutants
    python tests/mutation --sample 40 --seed 1  some of them, the same for the same seed
    python tests/mutation --match splits.py     those whose line in the report holds a text

Mutants that no test notices are listed by file. One of a log-determinant is an error.

The tests are collected once, from a copy of the package. A first pass records which test calls
which function. Then each mutant gets a fork of this process: it changes the function and runs the
tests that call it, the fastest first, until one fails.

mutmut and cosmic-ray do not fit. Neither takes a sample or can be told what a log-determinant is;
mutmut wraps every function, which hides it from torch.compile and from recorded signatures;
cosmic-ray starts Python, PyTorch and the collection of tests anew for each mutant.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from cProfile import Profile
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import torch
from _pytest.runner import runtestprotocol
from changes import LOG_DET, Mutant, find_mutants

ROOT = Path(__file__).resolve().parents[2]
MAPS = (
    "univariate",
    "splines",
    "neural",
    "circular",
    "positive",
    "tails",
    "autoregressive",
    "residual",
    "continuous",
)
MODELS = ("conformance", "flow", "glow", "pixels", "gradients", "layout", "changed_networks")
FORMULAS = (*MODELS, "bases", "mixtures", *MAPS)
TRAINING = ("training", "training_faults", "training_memory", "training_compile", "numbers")
# Which test files are asked about which modules.
TARGETS = dict.fromkeys(("bijections", "networks", "flow.py", "bases.py", "context.py"), FORMULAS)
TARGETS["training"] = TRAINING
# Tests that are left out for a sample of mutants: the models, which are made of the same maps.
SLOW = re.compile(r"float32|\[\w*(Flow|NSF|MAF|IAF|NAF|NICE|RealNVP|Glow)\b|double_copy|processes")
WORKERS = 2


class Trial:
    """A plugin of pytest that tries mutants in place of a single run of the tests."""

    def __init__(self, package: Path, mutants: list[Mutant], quick: bool) -> None:
        self.package, self.mutants, self.quick = package, mutants, quick
        self.output = os.fdopen(os.dup(1), "w", buffering=1)  # pytest captures the original
        self.ok = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            self.output.write("The tests cannot be collected.\n")
            return True
        start = time.perf_counter()
        session.config._tmp_path_factory.getbasetemp()  # each fork would replace it
        self.items = {
            item.nodeid: item
            for item in session.items
            if not (self.quick and SLOW.search(item.nodeid))
        }
        self.functions = [
            found
            for found in gc.get_objects()
            if type(found) is FunctionType
            and found.__code__.co_filename.startswith(str(self.package))
        ]
        gc.freeze()  # so that a fork copies less
        names = list(self.items)
        size = -(-len(names) // WORKERS)
        shares = [names[i * size : (i + 1) * size] for i in range(WORKERS)]
        self.records = {}
        for record in in_forks([partial(self.record, share) for share in shares]):
            self.records |= record
        broken = [name for name, (_, passed, _) in self.records.items() if not passed]
        for name in broken:
            self.output.write(f"fails without any change: {name}\n")
        noticed = in_forks([partial(self.notices, mutant) for mutant in self.mutants])
        missed = [m for m, seen in zip(self.mutants, noticed, strict=True) if not seen]
        for mutant in sorted(missed, key=lambda m: (m.path, m.old.lineno)):
            note = "" if self.tests_of(mutant) else "  (no test calls it)"
            self.output.write(f"{line(self.package, mutant)}{note}\n")
        errors = sum(mutant.kind == LOG_DET for mutant in missed)
        self.output.write(
            f"{len(self.mutants)} mutants, {len(missed)} not noticed, of these {errors} of "
            f"log-determinants; {time.perf_counter() - start:.0f} s\n"
        )
        self.ok = not errors and not broken
        return True

    def record(self, names: list[str]) -> dict[str, tuple[float, bool, set[tuple[str, str]]]]:
        """Of each test on the right source: its seconds, whether it passes, what it calls."""
        records = {}
        for name, following in zip_longest(names, names[1:]):
            profile = Profile(builtins=False, subcalls=False)  # in C: it costs little
            start = time.perf_counter()
            profile.enable()
            passed = self.passes(name, following)
            profile.disable()
            functions = {
                (code.co_filename, code.co_qualname.partition(".<locals>")[0])
                for code in (entry.code for entry in profile.getstats())
                if isinstance(code, CodeType) and code.co_filename.startswith(str(self.package))
            }
            records[name] = time.perf_counter() - start, passed, functions
        return records

    def passes(self, name: str, following: str | None) -> bool:
        next_item = self.items.get(following)
        reports = runtestprotocol(self.items[name], log=False, nextitem=next_item)
        return not any(report.failed for report in reports)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that call the function, file by file, the fastest of each first."""
        files = files_of(self.package, mutant)
        function = str(mutant.path), mutant.function
        found = [
            (files.index(file), seconds, name)
            for name, (seconds, passed, functions) in self.records.items()
            if (file := name.partition("::")[0]) in files and passed and function in functions
        ]
        return [name for _, _, name in sorted(found)]

    def notices(self, mutant: Mutant) -> bool:
        """Whether a test fails; a run that takes too long counts as one, too."""
        names = self.tests_of(mutant)
        signal.alarm(30 + 10 * int(sum(self.records[name][0] for name in names)))
        changed = mutant.code()
        for function in self.functions:
            code = function.__code__
            if code.co_filename == str(mutant.path):
                function.__code__ = changed.get((code.co_qualname, code.co_firstlineno), code)
        pairs = zip_longest(names, names[1:])
        return not all(self.passes(name, following) for name, following in pairs)


def choose(package: Path, options: argparse.Namespace) -> list[Mutant]:
    paths = [
        path
        for target in TARGETS
        if target != "training" or not options.sample or options.match
        for path in sorted([package / target, *(package / target).rglob("*.py")])
        if path.is_file()
    ]
    mutants = [mutant for path in paths for mutant in find_mutants(path)]
    mutants = [mutant for mutant in mutants if options.match in line(package, mutant)]
    count = min(options.sample or len(mutants), len(mutants))
    return random.Random(options.seed).sample(mutants, count)


def line(package: Path, mutant: Mutant) -> str:
    return f"{mutant.path.relative_to(package)}:{mutant}"


def files_of(package: Path, mutant: Mutant) -> list[str]:
    """The test files that are asked about a mutant."""
    return [f"tests/test_{name}.py" for name in TARGETS[mutant.path.relative_to(package).parts[0]]]


def in_forks(jobs: list[Callable[[], Any]]) -> Iterator[Any]:
    """The results of jobs in order, each done by a fork; True for one that was killed."""
    results: dict[int, Any] = {}
    running: dict[int, tuple[int, Any]] = {}
    for i, job in enumerate([*jobs, *[None] * WORKERS]):
        while running and (job is None or len(running) == WORKERS):
            pid, _ = os.wait()
            number, file = running.pop(pid)
            file.seek(0)
            content = file.read()
            results[number] = pickle.loads(content) if content else True
        if job is not None:
            file = tempfile.TemporaryFile()  # noqa: SIM115
            if (pid := os.fork()) == 0:
                try:
                    file.write(pickle.dumps(job()))
                    file.flush()
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            running[pid] = i, file
    return (results[i] for i in range(len(jobs)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="so many, of the mathematics only")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--match", default="", help="only those whose line holds this text")
    options = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder).resolve() / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        sys.path.insert(0, str(source))
        os.environ["PYTHONPATH"] = str(source)
        package = source / "diffeo"
        trial = Trial(package, mutants := choose(package, options), bool(options.sample))
        files = dict.fromkeys(file for mutant in mutants for file in files_of(package, mutant))
        arguments = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
        pytest.main([*arguments, *files], [trial])
        assert Path(sys.modules["diffeo"].__file__).is_relative_to(source)
    return 0 if trial.ok else 1


if __name__ == "__main__":
    sys.exit(main())
