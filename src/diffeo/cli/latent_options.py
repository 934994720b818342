"""The options of the commands that move about in latent space."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import ArgumentParser

from diffeo.cli.common import run_options
from diffeo.latent import DirectionKind, PathKind

EditKind = Literal[DirectionKind, "condition"]


def _data_option(parser: ArgumentParser, default: str = "the test split") -> None:
    parser.add_argument("--data", type=str | None, help=f"Which pictures; by default {default}.")


def _kind_option(parser: ArgumentParser, kinds: Any, default: str | None, more: str = "") -> None:
    parser.add_argument(
        "--kind",
        type=kinds,
        default=default,
        help="mean: pictures with it less those without; partial: all attributes at once, so that "
        f"none brings along what goes with it; discriminant: Fisher's.{more}",
    )


def interpolate_options(parser: ArgumentParser) -> None:
    """Draw the path in latent space from one picture to another, pair by pair."""
    run_options(parser)
    _data_option(parser)
    parser.add_argument(
        "--pairs", type=int, default=8, help="How many: of the first pictures, two and two."
    )
    parser.add_argument("--frames", type=int, default=9, help="Pictures on the way, with the ends.")
    parser.add_argument(
        "--kind",
        type=PathKind,
        default="spherical",
        help="spherical keeps to the length that noise has, linear is straight.",
    )
    parser.add_argument(
        "--corners",
        action="store_true",
        help="Between the first four pictures instead, as a sheet of frames x frames.",
    )
    parser.add_argument(
        "--out",
        type=str,
        default="interpolation.png",
        help="A sheet with a pair in each row, .png .jpg .webp; or a film, .gif, or .mp4 where "
        "ffmpeg is installed.",
    )


def edit_options(parser: ArgumentParser) -> None:
    """Draw pictures with more and less of an attribute."""
    run_options(parser)
    _data_option(parser)
    parser.add_argument(
        "--attribute",
        type=list[str],
        required=True,
        help="Which, or several, NAME,NAME, moved together by the same strength.",
    )
    parser.add_argument(
        "--strengths",
        type=list[float],
        default=[-2.0, -1.0, 0.0, 1.0, 2.0],
        help="How far, a column each; 1 is from pictures without it to those with it.",
    )
    parser.add_argument("-n", "--num", type=int, default=8, help="How many pictures, a row each.")
    parser.add_argument(
        "--directions",
        type=str | None,
        help="What `diffeo directions` wrote; by default they are found anew, in --data or in the "
        "training split.",
    )
    _kind_option(
        parser,
        EditKind | None,
        None,
        " condition: another context for the same noise, the default where the model is "
        "conditional on all that is named; else mean.",
    )
    parser.add_argument("--out", type=str, default="edits.png", help="A .png, .pdf or .svg file.")


def directions_options(parser: ArgumentParser) -> None:
    """Find the direction of each attribute in latent space, in one pass over the pictures."""
    run_options(parser)
    _data_option(parser, "the training split")
    _kind_option(parser, DirectionKind, "mean")
    parser.add_argument(
        "--out", type=str, default="directions.safetensors", help="A .safetensors file."
    )


def levels_options(parser: ArgumentParser) -> None:
    """Draw pictures with one level of their latents drawn anew, and the others kept."""
    run_options(parser)
    _data_option(parser)
    parser.add_argument("-n", "--num", type=int, default=8, help="How many pictures, a row each.")
    parser.add_argument("--temperature", type=float, default=0.7, help="Of what is drawn anew.")
    parser.add_argument("--seed", type=int | None, help="The same seed draws the same.")
    parser.add_argument("--out", type=str, default="levels.png", help="A .png, .pdf or .svg file.")
