"""The options of each command."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable

from jsonargparse import ArgumentParser

from diffeo.cli import latent_options, shares
from diffeo.cli.common import precision_option, run_options
from diffeo.cli.explore import explore_options
from diffeo.cli.overview import outline
from diffeo.data import DataOptions
from diffeo.evaluation.scores import Kind
from diffeo.export import Format, What
from diffeo.flow import Flow
from diffeo.run import presets
from diffeo.training.options import TrainerOptions
from diffeo.training.steps import OptimizerOptions

AUTO_SCORES = "float32: bf16 was measured to change the bits/dim of trained models by up to 0.03"


def make_parser(command: str) -> ArgumentParser:
    """The parser of one command: what the others take is not looked up."""
    add = PARSERS[command]
    sub = ArgumentParser(
        description=add.__doc__, usage=f"diffeo {command} [options]", exit_on_error=False
    )
    add(sub)
    for action in sub._actions:
        # Long options of a group are what people type; its file is for --config.
        if action.option_strings in (["--optimizer"], ["--trainer"]):
            action.help = SUPPRESS
        if action.option_strings == ["--data"] and command == "train":
            action.metavar, action.help = "SOURCE", "The same as --data.source."
    return outline({command: sub})


def _train_options(parser: ArgumentParser) -> None:
    """Train a flow and fill a run folder.

    Examples: `diffeo train`, `diffeo train --data my.csv --data.columns height,weight`,
    `diffeo train --model NICE --model.layers 6`, `diffeo train --data pictures/ --data.size 32`,
    `diffeo train --preset mnist-cpu --data mnist/`, `diffeo train --resume runs/moons`.
    """
    parser.add_argument(
        "--config",
        action="config",
        help="A YAML file of these options. One that names a class which is none of diffeo's needs "
        "--trust, as a run of such a class does to be resumed.",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="Import the classes that --config or the run of --resume names: it runs their code.",
    )
    parser.add_argument(
        "--preset",
        type=str | None,
        help=f"Settings that were tried, one of {', '.join(presets.names())}; what is said after "
        "it counts more.",
    )
    parser.add_argument(
        "--model",
        type=Callable[[int | tuple[int, ...]], Flow] | None,
        help="NICE, RealNVP, ImageRealNVP, or a class of your own: mypackage.MyFlow. By default "
        "RealNVP, and ImageRealNVP for pictures.",
    )
    parser.add_class_arguments(DataOptions, "data")
    parser.add_argument(
        "--out", type=str | None, help="The run folder; by default runs/NAME of the data."
    )
    parser.add_argument("--resume", type=str | None, help="A run folder to go on with.")
    parser.add_argument("--seed", type=int, default=0, help="Of first weights and batches.")
    precision_option(
        parser,
        "bf16 for pictures where the processor has it, and else float32; what is validated and "
        "saved is float32",
    )
    parser.add_class_arguments(OptimizerOptions, "optimizer")
    parser.add_class_arguments(TrainerOptions, "trainer")


def _delimiter_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--delimiter",
        type=str | None,
        help="The character between the values of a CSV file; a comma by default.",
    )


def _ray_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        action="store_true",
        help='Work at the files of a folder side by side, on Ray (pip install "diffeo[ray]"): on '
        "the cores of this machine.",
    )
    parser.add_argument(
        "--ray-address",
        type=str | None,
        help="HOST:PORT of a Ray cluster to do so on, whose machines see the same folders.",
    )


def _eval_options(parser: ArgumentParser) -> None:
    """Print the mean negative log-likelihood of each split, or of other data.

    In nats for tables, in bits/dim for pictures.
    """
    run_options(parser)
    parser.add_argument(
        "--data", type=str | None, help="Other rows with the same columns, or other pictures."
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        help="Noisy copies of each picture to average: more than 1 print the importance-weighted "
        "bound, which lies below what one copy gives.",
    )
    precision_option(parser, AUTO_SCORES)
    _delimiter_option(parser)


def _sample_options(parser: ArgumentParser) -> None:
    """Draw from the model: rows of a table, or pictures."""
    run_options(parser)
    parser.add_argument(
        "-n",
        "--num",
        type=int | None,
        help="How many: by default 1000 rows, or 64 pictures, or 8 rows of --temperatures.",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="Below 1 for more typical ones."
    )
    parser.add_argument(
        "--temperatures",
        type=list[float] | None,
        help="Pictures at several, as 0,0.5,0.7,1: a figure with a row for each noise.",
    )
    parser.add_argument("--seed", type=int | None, help="The same seed draws the same.")
    precision_option(parser, "float32, so that the same seed draws the same on other machines")
    parser.add_argument(
        "--context", type=str | None, help="Context of all samples, name=value,name=value."
    )
    parser.add_argument(
        "--label",
        type=str | None,
        help="The class of all samples, where a model is conditional on labels.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        help="Rows: .csv .parquet .npy .npz, .png to see them, or a folder of .parquet files; by "
        "default samples.csv. Pictures: one sheet .png .jpg .webp, .npy .npz, or a folder; by "
        "default samples.png.",
    )
    parser.add_argument(
        "--part-rows",
        type=int | None,
        help="How many in each .parquet file of a folder; by default 1,000,000 rows, or 1,000 "
        "pictures, which are PNG files in a folder where neither this nor --ray is given.",
    )
    _ray_options(parser)


def _score_options(parser: ArgumentParser) -> None:
    """Write the log-likelihood of each row of a table, or of each picture, in nats.

    Beside it a score of another kind; the lowest scores are the outliers.
    """
    run_options(parser)
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="The rows or pictures to score; a folder of .parquet files needs a folder as --out.",
    )
    parser.add_argument(
        "--kind",
        type=Kind,
        default="log_prob",
        help="typicality: how far the log-likelihood lies from that of held-out data, negative. "
        "complexity: the log-likelihood plus the length of a plain code, a lossless file of the "
        "picture or independent columns, so that what is simple gains nothing by it.",
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        help="Data like those of training, for a model that does not know what these score.",
    )
    precision_option(parser, AUTO_SCORES)
    _delimiter_option(parser)
    parser.add_argument(
        "--out",
        type=str,
        default="scores.csv",
        help=".csv .parquet .npy .npz, or a folder: a file of it for each .parquet file of --data.",
    )
    _ray_options(parser)


def _plot_options(parser: ArgumentParser) -> None:
    """Draw a model and its data."""
    from diffeo.run import FigureKind  # it draws with matplotlib, which others do not need

    run_options(parser)
    parser.add_argument(
        "--kind",
        type=FigureKind | None,
        help="By default panels for 2 columns, corner for other tables, samples for pictures.",
    )
    parser.add_argument("--out", type=str, default="plot.png", help="A .png, .pdf or .svg file.")


def _reconstruct_options(parser: ArgumentParser) -> None:
    """Draw pictures, their reconstruction, and what is left of them without the finer latents."""
    run_options(parser)
    parser.add_argument(
        "--data", type=str | None, help="Which pictures; by default the test split."
    )
    parser.add_argument("-n", "--num", type=int, default=64, help="How many are reconstructed.")
    parser.add_argument(
        "--out", type=str, default="reconstructions.png", help="A .png, .pdf or .svg file."
    )


def _export_options(parser: ArgumentParser) -> None:
    """Write a model as files that score and sample without diffeo.

    score takes x (uint8 for pictures), noise (where the model dequantizes: uniform in 0 to 1, or
    1/2 everywhere) and context (where it takes one), and gives the log-likelihood in nats; sample
    takes standard normal noise z and context, and gives x. See `diffeo.export.export`.
    """
    run_options(parser)
    parser.add_argument(
        "--to",
        type=Format,
        required=True,
        help='onnx, which needs pip install "diffeo[onnx]"; torch: a program of torch.export.',
    )
    parser.add_argument("--what", type=What, default="both", help="What the files compute.")
    parser.add_argument(
        "--out", type=str, default="export", help="The folder of score.onnx, sample.pt2 and so on."
    )


# The first line of each is that of `overview.SUMMARIES`.
PARSERS: dict[str, Callable[[ArgumentParser], None]] = {
    "train": _train_options,
    "eval": _eval_options,
    "sample": _sample_options,
    "score": _score_options,
    "plot": _plot_options,
    "reconstruct": _reconstruct_options,
    "export": _export_options,
    "interpolate": latent_options.interpolate_options,
    "edit": latent_options.edit_options,
    "directions": latent_options.directions_options,
    "levels": latent_options.levels_options,
    "share": shares.share_options,
    "explore": explore_options,
}
