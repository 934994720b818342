"""A flow as a file that scores or samples without diffeo: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize

from diffeo.bijections.convolution import InvertibleConv1x1
from diffeo.bijections.dequantization import Dequantizer, UniformDequantize
from diffeo.bijections.pixels import PixelDequantize
from diffeo.flow import Flow, eval_mode
from diffeo.utils.files import atomic_write

Format = Literal["onnx", "torch"]
What = Literal["score", "sample", "both"]
Inputs = dict[str, Tensor]
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
# How far a file may be from the flow: in nats, of each log-probability and relative to it; and of
# each feature of a table, relative to its spread. Of pictures so many pixels may fall to the other
# side of a grey level, where they lie on its edge.
NATS, RELATIVE, SPREAD, PIXELS = 1e-3, 1e-4, 1e-3, 0.01
TRACED, CHECKED = 3, (1, 5)  # batch sizes


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Args:
        path: where.
        takes: the names of its inputs, with their shapes and dtypes.
        gives: its output, likewise.
        error: how far it was from the flow: the largest difference of a log-probability in nats,
            of a feature in standard deviations, or the share of pixels off by a grey level.
        unit: in words, which of these.
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

    Neither draws anything: who calls them brings the noise. Inputs go by their names.

    - x `(batch, *shape)`: float32, or uint8 for pictures.
    - noise `(batch, *shape)`: only of a flow that dequantizes: where in its cell each value is put,
      from 0 to 1. Uniform draws give what `Flow.log_prob` gives, the bound that is published as
      bits/dim; 1/2 everywhere is the middle of each cell, which is the same each time and good for
      ranking, but no bound.
    - z `(batch, dims)`: draws from N(0, 1), times a temperature if wanted; for a flow with the
      logistic base, `log(u / (1 - u))` of uniform u.
    - context `(batch, context_features)`, float32; of a class-conditional flow the classes
      `(batch,)`, int64 from 0 on.

    Batches may have any size. The computation is float32 on the CPU, whatever the flow is in, and
    in eval mode. The files hold no code and nothing of diffeo; they are used like this:

        session = onnxruntime.InferenceSession("score.onnx")
        [log_prob] = session.run(None, {"x": x})        # NumPy arrays

        sample = torch.export.load("sample.pt2").module()
        x = sample(z=torch.randn(100, 2))

    Each file is read back, and compared with the flow on draws of its own in batches of 1 and 5,
    while it was traced with 3. The log-probabilities have to agree to 1e-3 nats + 1e-4 of their
    value, features to 1e-3 of their standard deviation, and 99 % of pixels exactly, the others to a
    grey level.

    Args:
        flow: the model; it is not changed.
        folder: where the files go; those of the same name are replaced, once all are right.
        to: "onnx", which needs `pip install "diffeo[onnx]"`, or "torch".
        what: "score", "sample" or "both".

    Raises:
        ValueError: if the flow cannot be exported, a file differs from it, or an extra is missing.
            Nothing is written then.
    """
    if to not in SUFFIXES or what not in get_args(What):
        raise ValueError(f"there is no export of {what!r} to {to!r}: see diffeo export --help.")
    if to == "onnx":
        _require_onnx()
    plain = _plain(flow)
    done = []
    with ExitStack() as files:
        for name in ("score", "sample") if what == "both" else (what,):
            task = _Score(plain) if name == "score" else _Sample(plain)
            path = Path(folder) / f"{name}{SUFFIXES[to]}"
            partial = files.enter_context(atomic_write(path))
            program = _traced(task, name)
            call = _write_onnx(program, partial) if to == "onnx" else _write_torch(program, partial)
            error = max(_checked(task, call, size, name) for size in CHECKED)
            inputs, output = task.truth(1)
            takes = ", ".join(_said(*each) for each in inputs.items())
            done.append(Exported(path, takes, _said(task.gives, output), error, task.unit))
    return done


# What is computed -------------------------------------------------------------------------------


class _Task(nn.Module):
    gives: str
    unit: str  # of its errors

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def truth(self, n: int) -> tuple[Inputs, Tensor]:
        """Inputs for n events, and what the flow itself says of them."""
        raise NotImplementedError

    def _rows(self, context: Tensor | None) -> Tensor | None:
        """The context as the links expect it, as `Flow` brings it to them."""
        flow = self.flow
        if context is None:
            return None
        if flow.context.category:
            count = len(flow.context.category.values)
            context = nn.functional.one_hot(context, count).to(torch.float32)
        return context if flow.context_encoder is None else flow.context_encoder(context)[0]


class _Score(_Task):
    """`x, [noise], [context] -> log p(x | context)`."""

    gives = "log_prob"
    unit = "nats"

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        door = flow.dequantizer
        if not isinstance(door, PixelDequantize | UniformDequantize | None):
            raise ValueError(
                f"{type(door).__name__} cannot be exported, only dequantizers of diffeo's own: "
                "export the sampling alone, or a flow without it."
            )

    def forward(
        self, x: Tensor, noise: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        if self.flow.dequantizer is not None and noise is not None:
            x = _within(self.flow.dequantizer, x, noise)
        z, log_det = self.flow.bijection(x, self._rows(context))
        return self.flow.base.log_prob(z) + log_det

    def truth(self, n: int) -> tuple[Inputs, Tensor]:
        flow, context = self.flow, _contexts(self.flow, n)
        x = flow.sample(n, context.get("context"), generator=_seeded(n))
        said = flow.log_prob(x, context.get("context"), generator=_seeded(n + 1))
        # The noise that it has just drawn.
        drawn = (
            {}
            if flow.dequantizer is None
            else {"noise": torch.rand(x.shape, generator=_seeded(n + 1))}
        )
        return {"x": x, **drawn, **context}, said


class _Sample(_Task):
    """`z, [context] -> x`."""

    gives = "x"

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self.unit = "of the pixels" if flow.takes_pixels else "standard deviations"

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.flow.bijection.inverse(z, self._rows(context))
        return x if self.flow.dequantizer is None else self.flow.dequantizer.inverse(x)

    def truth(self, n: int) -> tuple[Inputs, Tensor]:
        context = _contexts(self.flow, n)
        z = self.flow.noise(n, _seeded(n))
        return {"z": z, **context}, self.flow.decode(z, context.get("context"))


def _within(door: Dequantizer, x: Tensor, u: Tensor) -> Tensor:
    """What `noisy` returns where it draws u."""
    if isinstance(door, PixelDequantize):
        # Not by shifting bits, which ONNX's translation takes for signed.
        return (x.to(u.dtype) * 2.0 ** (door.bits - 8)).floor() + u
    assert isinstance(door, UniformDequantize)
    return x + torch.tensor(door.steps, dtype=x.dtype) * (u - 0.5)


def _contexts(flow: Flow, n: int) -> Inputs:
    """Contexts like those that the flow has seen; none for one without."""
    if flow.context.category:
        count = len(flow.context.category.values)
        return {"context": torch.randint(count, (n,), generator=_seeded(n))}
    if not flow.context_features:
        return {}
    context = torch.randn(n, flow.context_features, generator=_seeded(n))
    if flow.context_encoder is not None:
        context = flow.context_encoder.inverse(context)[0]
    return {"context": context}


def _seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


# A flow of plain operations ---------------------------------------------------------------------


class _Mixing(InvertibleConv1x1):
    """A 1x1 convolution whose matrices are computed, and stay."""

    def __init__(self, conv: InvertibleConv1x1) -> None:
        nn.Module.__init__(self)
        weight, log_det = conv.weight_and_log_det()
        self.register_buffer("made", weight)
        self.register_buffer("undone", conv.inverse_and_log_det()[0])
        self.register_buffer("log_det", log_det)

    def weight_and_log_det(self) -> tuple[Any, Any]:
        return self.made, self.log_det

    def inverse_and_log_det(self) -> tuple[Any, Any]:
        return self.undone, self.log_det

    def extra_repr(self) -> str:
        return ""


def _plain(flow: Flow) -> Flow:
    """A copy in float32 and eval mode, with nothing in it that is computed from weights alone."""
    plain = copy.deepcopy(flow).to("cpu", torch.float32).eval().requires_grad_(False)
    plain.set_precision(None)
    with torch.no_grad():
        for module in list(plain.modules()):
            if parametrize.is_parametrized(module):
                _settle(module)
            for name, child in list(module.named_children()):
                if isinstance(child, InvertibleConv1x1):
                    setattr(module, name, _Mixing(child))
    return plain


def _settle(module: nn.Module) -> None:
    """Put a weight where a parametrization computed it at each use.

    PyTorch's own way would change the class, which a copy shares with its original.
    """
    made = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in made.items():
        module.register_buffer(name, value)


# Tracing, writing, checking ---------------------------------------------------------------------


def _traced(task: _Task, name: str) -> ExportedProgram:
    with eval_mode(task.flow):
        inputs, _ = task.truth(TRACED)
    batch = torch.export.Dim("batch")
    # With gradients, as in training, networks take the batch whole, and no kernels of their own.
    with torch.enable_grad():
        try:
            program = torch.export.export(
                task, (), inputs, dynamic_shapes={key: {0: batch} for key in inputs}
            )
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"{name} of this flow cannot be traced: write its parts without branches that "
                f"depend on values ({reason})."
            ) from error
    for node in _nodes(program):
        # Which lines of source it came from is nobody's business who uses the file.
        node.meta.pop("stack_trace", None)
        if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten":
            raise ValueError(
                f"{name} has the operation {node.target}, which only this PyTorch has."
            )
    return program


def _nodes(program: ExportedProgram) -> Iterator[Any]:
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from module.graph.nodes


Call = Callable[[Inputs], Tensor]


def _write_torch(program: ExportedProgram, path: Path) -> Call:
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(**inputs)


def _write_onnx(program: ExportedProgram, path: Path) -> Call:
    import onnxruntime

    names = [spec.arg.name for spec in program.graph_signature.input_specs if _is_given(spec)]
    written = torch.onnx.export(
        program, input_names=names, output_names=[path.stem], dynamo=True, verbose=False
    )
    assert written is not None
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(inputs: Inputs) -> Tensor:
        [result] = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        return torch.from_numpy(result)

    return call


def _is_given(spec: Any) -> bool:
    return spec.kind.name == "USER_INPUT"


def _checked(task: _Task, call: Call, size: int, name: str) -> float:
    """How far the file is from the flow.

    Raises:
        ValueError: if that is too far.
    """
    with eval_mode(task.flow):
        inputs, wanted = task.truth(size)
    got = call(inputs)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise ValueError(f"the exported {name} gives {_said('', got)}, not {_said('', wanted)}.")
    far = (got.double() - wanted.double()).abs()
    if not far.isfinite().all():
        far = torch.where(got == wanted, 0.0, math.inf)
    if wanted.dtype == torch.uint8:
        door: Any = task.flow.dequantizer
        error = float((far > 0).double().mean())
        right = error <= PIXELS and float(far.max()) <= 2 ** (8 - door.bits)
    elif name == "score":
        error = float(far.max())
        right = bool((far <= NATS + RELATIVE * wanted.abs()).all())
    else:
        # Of 100 draws, since those at hand may be one.
        with eval_mode(task.flow):
            spread = task.truth(100)[1].double().std(0)
        error = float((far / spread).max())
        right = error <= SPREAD
    if right:
        return error
    raise ValueError(
        f"the exported {name} differs from the flow by {error:.2g} in a batch of {size}, and so "
        "nothing was written: the flow may amplify rounding errors; try the other format."
    )


def _said(name: str, value: Tensor) -> str:
    """Such as `x (batch, 2) float32`."""
    shape = ", ".join(map(str, ["batch", *value.shape[1:]]))
    return f"{name} ({shape}) {str(value.dtype).removeprefix('torch.')}".strip()


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing, which ONNX needs: pip install 'diffeo[onnx]', or export to "
            "torch."
        ) from error
