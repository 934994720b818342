"""The command `python -m benchmarks NAME [options]`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
# Those of `all`, which measure speed and memory on a CPU; and others of their kind.
NAMES = (
    "glow-train",
    "glow-sample",
    "glow-memory",
    "memory-time",
    "image-realnvp",
    "tables",
    "loop",
    "scaling",
)
GPU = "gpu"
MORE = (GPU, "checkerboards", "table-steps", "products", "ensemble")
# These have options of their own, and need data, or a run to look at.
SCRIPTS = (
    *("tables-nll", "splines-nll", "glow-bpd", "editing", "families", "targets"),
    *("numeric", "mixed", "outliers", "image-outliers", "gaps", "coverage", "tarflow-sample"),
    *("compression", "attributes", "flowpp", "sbi", "race"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is named; the exit status is 2 where that cannot be."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in SCRIPTS:
        load(arguments[0]).main(arguments[1:])
        return 0
    options = make_parser().parse_args(arguments)
    console = Console(width=max(120, Console().width))
    try:
        for name in NAMES if options.name == "all" else (options.name,):
            measure(name, options, console)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def measure(name: str, options: argparse.Namespace, console: Console) -> None:
    """Measure, print and write one of them."""
    from benchmarks.harness import Settings, default_threads

    device = options.device or ("cuda" if name == GPU else "cpu")
    settings = Settings(
        rounds=options.rounds or (2 if options.small else 8),
        seconds=0.0 if options.small else options.seconds,
        threads=options.threads or default_threads(),
        device=device,
        keep=options.keep,
        small=options.small,
    )
    start = time.perf_counter()
    report = load(name).measure(settings)
    report.print(console)
    console.print(f"{name}: {time.perf_counter() - start:.0f} s.\n", style="dim", highlight=False)
    if options.out or not options.small:  # sizes that mean nothing leave nothing behind
        report.write(options.out or RESULTS)


def load(name: str):
    """The module of a name."""
    return importlib.import_module(f"benchmarks.{name.replace('-', '_')}")


def make_parser() -> argparse.ArgumentParser:
    """The options that all have in common."""
    described = "\n".join(f"  {name:14} {first_line(name)}" for name in (*NAMES, *MORE, *SCRIPTS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure diffeo against others; ratios of one run count, single times do not.",
        epilog=f"names:\n  {'all':14} All for a CPU, one after another.\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=["all", *NAMES, *MORE, *SCRIPTS], metavar="NAME")
    parser.add_argument("--rounds", type=positive, help="turns of each side; 8")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, at least; 0.5")
    parser.add_argument("--threads", type=positive, help="by default one for each core")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cpu; of gpu cuda")
    parser.add_argument("--keep", action="store_true", help="all sides keep what they free")
    parser.add_argument("--small", action="store_true", help="sizes that take seconds, no more")
    parser.add_argument("--out", type=Path, help="where JSON and PNG go; benchmarks/results")
    return parser


def first_line(name: str) -> str:
    """What a module says of itself, without importing it."""
    text = (Path(__file__).parent / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return text.split("\n", 1)[0].strip('"')


def positive(text: str) -> int:
    """A whole number above 0."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
