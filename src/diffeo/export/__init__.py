"""Flows as files that score and sample without diffeo: ONNX, or programs of `torch.export`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diffeo.export.files import WRITERS, Format, check, describe, require_onnx, trace
from diffeo.export.programs import Program, Sample, Score, prepare
from diffeo.flow import Flow
from diffeo.utils.files import atomic_write

__all__ = ["Exported", "Format", "What", "export"]

What = Literal["score", "sample", "both"]
CHECKED = (1, 5)  # batch sizes; the programs are traced with another


@dataclass(frozen=True)
class Exported:
    """A file that was written, its inputs and its output (name, shape and dtype).

    `error` is its largest difference from the flow: of a log-probability in nats, of a feature in
    standard deviations, or the share of pixels off by a grey level; `unit` says which.
    """

    path: Path
    takes: str
    gives: str
    error: float
    unit: str


def export(
    flow: Flow, folder: Path | str, to: Format = "onnx", what: What = "both"
) -> list[Exported]:
    """Write `score` and `sample` into a folder, as `.onnx` or `.pt2`, checked against the flow.

        score:   x, [noise], [context] -> log p(x | context) (batch,), in nats
        sample:  z, [context] -> x

    Neither draws anything: the caller passes the noise. Inputs are given by name.

    - x `(batch, *shape)`: float32, or uint8 for images.
    - noise `(batch, *shape)`: only of a flow that dequantizes: where in its cell each value is put,
      from 0 to 1. Uniform draws give what `Flow.log_prob` gives, the bound that is published as
      bits/dim; 1/2 everywhere is the middle of each cell, which is the same each time and good for
      ranking, but no bound.
    - z `(batch, dims)`: draws from the base density, N(0, 1) by default, times a temperature if
      wanted; for the logistic base, `log(u / (1 - u))` of uniform u.
    - context `(batch, context_features)`, float32; of a class-conditional flow the classes
      `(batch,)`, int64 from 0 on.

    Batches may have any size. The computation is float32 on the CPU, whatever the flow is in, and
    in eval mode. The files hold no code and nothing of diffeo; they are used like this:

        session = onnxruntime.InferenceSession("score.onnx")
        [log_prob] = session.run(None, {"x": x})        # NumPy arrays

        sample = torch.export.load("sample.pt2").module()
        x = sample(z=torch.randn(100, 2))

    Each file is read back and compared with the flow on draws of its own, in batches of 1 and 5;
    it was traced with 3. Log-probabilities have to agree to 1e-3 nats + 1e-4 of their value,
    features to 1e-3 of their standard deviation, and 99 % of pixels exactly, the others to a grey
    level.

    Args:
        flow: the model; it is not changed.
        folder: where the files go; those of the same name are replaced, once all are right.
        to: "onnx", which needs `pip install "diffeo[onnx]"`, or "torch".
        what: "score", "sample" or "both".

    Raises:
        ValueError: if the flow cannot be exported, a file differs from it, or an extra is missing.
            Nothing is written then.
    """
    if to not in WRITERS or what not in get_args(What):
        raise ValueError(f"there is no export of {what!r} to {to!r}: see diffeo export --help.")
    if to == "onnx":
        require_onnx()
    suffix, write = WRITERS[to]
    plain = prepare(flow)
    done = []
    with ExitStack() as files:
        for name in ("score", "sample") if what == "both" else (what,):
            program: Program = Score(plain) if name == "score" else Sample(plain)
            path = Path(folder) / f"{name}{suffix}"
            partial = files.enter_context(atomic_write(path))
            call = write(trace(program), partial)
            error = max(check(program, call, size) for size in CHECKED)
            inputs, output = program.example(1)
            takes = ", ".join(describe(*each) for each in inputs.items())
            gives = describe(program.output, output)
            done.append(Exported(path, takes, gives, error, program.unit))
    return done
