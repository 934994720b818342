"""What `diffeo --help` says, which needs none of the commands themselves and answers at once."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from diffeo.utils.version import __version__

DESCRIPTION = """Normalizing flows: learn a density from a table or from pictures, then score,
sample and draw it.

Begin with `diffeo train`, which learns two moons, with `diffeo train --data my.csv`, or with
`diffeo train --data digits`."""

# A command and what it does: the first line of its own help.
SUMMARIES = {
    "train": "Train a flow and fill a run folder.",
    "eval": "Print the mean negative log-likelihood of each split, or of other data.",
    "sample": "Draw from the model: rows of a table, or pictures.",
    "score": "Write the log-likelihood of each row of a table, or of each picture, in nats.",
    "plot": "Draw a model and its data.",
    "reconstruct": "Draw pictures, their reconstruction, and what is left of them without the "
    "finer latents.",
    "export": "Write a model as files that score and sample without diffeo.",
    "interpolate": "Draw the path in latent space from one picture to another, pair by pair.",
    "edit": "Draw pictures with more and less of an attribute.",
    "directions": "Find the direction of each attribute in latent space, in one pass over the "
    "pictures.",
    "levels": "Draw pictures with one level of their latents drawn anew, and the others kept.",
    "share": "Push a model to the Hugging Face hub, with a card made from its run; or look at it "
    "first.",
    "explore": "Open a page to explore a model: sample, interpolate, edit, inspect.",
}


def outline(commands: dict[str, ArgumentParser] | None = None) -> ArgumentParser:
    """The parser of these commands; of all, without their options, where none is given."""
    parser = ArgumentParser(
        prog="diffeo",
        description=DESCRIPTION,
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,  # so that no --config passes unseen (see `trust`)
    )
    known = parser.add_subcommands(dest="command", required=True)
    for name in SUMMARIES if commands is None else commands:
        sub = ArgumentParser() if commands is None else commands[name]
        known.add_subcommand(name, sub, help=SUMMARIES[name])
    return parser
