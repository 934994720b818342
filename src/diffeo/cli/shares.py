"""Sharing a model."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from diffeo.cli.common import open_run, run_options
from diffeo.pretrained.storage import STORED


def share_options(parser: ArgumentParser) -> None:
    """Push a model to the Hugging Face hub, with a card made from its run; or look at it first.

    Examples: `diffeo share runs/mine --out shared`, `diffeo share runs/mine owner/name --private`.
    """
    run_options(parser)
    parser.add_argument("name", type=str | None, nargs="?", help="Its name on the hub, owner/name.")
    parser.add_argument(
        "--out",
        type=str | None,
        help="Write what would be pushed into this folder, and push nothing.",
    )
    parser.add_argument(
        "--private", action="store_true", help="Make the repository one that only you see."
    )
    parser.add_argument(
        "--dtype",
        type=str | None,
        help="bfloat16 keeps the kernels of the networks in 16 bits, for nearly half the size; the "
        "card then says what the test split scores with them, where the data are at hand.",
    )
    parser.add_argument(
        "--license", type=str | None, help="As the hub calls it, such as apache-2.0."
    )
    parser.add_argument("--message", type=str | None, help="That of the commit.")


def share(options: Namespace, console: Console) -> None:
    """Push a run's model, or write it into a folder."""
    from diffeo.run import share

    if options.dtype is not None and options.dtype not in STORED:
        raise ValueError(f"--dtype is {options.dtype}: choose {', '.join(STORED)}.")
    said = {} if options.message is None else {"commit_message": options.message}
    where = share(
        open_run(options),
        options.name,
        options.out,
        dtype=None if options.dtype is None else STORED[options.dtype],
        license=options.license,
        console=console,
        # Without a word of the user's an organization's own default holds.
        private=options.private or None,
        **said,
    )
    verb = "Pushed to" if options.out is None else "Written to"
    console.print(f"{verb} {where}.", highlight=False, soft_wrap=True)
