"""`diffeo export`."""

from collections.abc import Iterator

from diffeo.export import Format, What, export
from diffeo.run import Run

FIXED = {"device": "cpu", "precision": "float32"}
WITHOUT = dict.fromkeys(
    ("--device", "--precision"), "the files are written and checked on the CPU, in float32"
)


def main(run: Run, *, to: Format, what: What = "both", out: str = "export") -> Iterator[str]:
    """Write a model as files that score and sample without diffeo.

    score takes x (uint8 for images), noise (if the model dequantizes: uniform in 0 to 1, or 1/2
    everywhere) and context (if the model takes one), and returns the log-likelihood in nats.
    sample takes standard normal noise z and context, and returns x. See `diffeo.export.export`.
    There is no --device: the files are written and checked on the CPU, in float32.

    Args:
        to: onnx, which needs pip install "diffeo[onnx]", or torch, a program of torch.export.
        what: What the files compute.
        out: The folder of score.onnx, sample.pt2 and so on.
    """
    for file in export(run.flow, out, to, what):
        error = f"error at most {file.error:.1g} {file.unit}"
        yield f"{file.path}: {file.takes} -> {file.gives}; {error}."
