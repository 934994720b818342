"""Files that score and sample without diffeo."""

import copy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused
from constructors import EXAMPLES, perturb

import diffeo
from diffeo.cli import main
from diffeo.context import ContextSpec
from diffeo.export import export, files
from diffeo.export.programs import Sample, Score, prepare

# Makes columns depend on each other.
MIXING = torch.tensor([[1.0, 0.5, -0.7], [0.0, 2.0, 0.3], [0.0, 0.0, 0.4]])


def pixels(n, *shape):
    return torch.randint(256, (n, *shape), dtype=torch.uint8)


def small(name):
    """A small flow of each kind, far from its start, and its context."""
    torch.manual_seed(0)
    rows, few = torch.randn(64, 3) * 3 + 1, torch.randn(64, 2) * 2 - 1
    if name == "RealNVP":
        flow, x, context = diffeo.RealNVP(3, layers=4, hidden=(8,)), rows, None
    elif name == "RealNVP on a grid":
        flow, context = diffeo.RealNVP(3, layers=2, hidden=(8,), steps=[0.0, 1.0, 0.5]), None
        x = torch.stack((rows[:, 0], rows[:, 1].round(), (2 * rows[:, 2]).round() / 2), dim=1)
    elif name == "TableFlow":
        flow, x, context = diffeo.TableFlow(3, layers=2, hidden=(8,)), rows @ MIXING, None
    elif name == "TableFlow, context":
        flow, context = diffeo.TableFlow(3, layers=2, hidden=(8,), context=2), few
        x = rows @ MIXING
    elif name == "NICE, context":
        flow, x, context = diffeo.NICE(3, hidden=(8,), context=2), rows, few
    elif name == "NICE of images":
        flow, x, context = diffeo.NICE((1, 4, 4), hidden=(8,), bits=5), pixels(64, 1, 4, 4), None
    elif name == "ImageRealNVP":
        flow = diffeo.ImageRealNVP((1, 4, 4), hidden_channels=4, blocks=0)
        x, context = pixels(64, 1, 4, 4), None
    elif name == "ImageRealNVP, masked, context":
        flow = diffeo.ImageRealNVP(
            (1, 4, 4), hidden_channels=4, blocks=1, checkerboard="masked", context=2
        )
        x, context = pixels(64, 1, 4, 4), few
    elif name == "Glow, classes":
        flow = diffeo.Glow(
            (1, 4, 4), levels=2, steps=1, hidden_channels=4, context=ContextSpec.classes(3)
        )
        x, context = pixels(64, 1, 4, 4), torch.randint(3, (64,))
    else:
        flow = diffeo.Glow(
            (3, 4, 4), levels=1, steps=1, hidden_channels=4, lu=False, context=2, bits=6
        )
        x, context = pixels(64, 3, 4, 4), few
    flow = perturb(flow.initialize(x, context), 0.05).eval()
    return flow, x, context


QUICK = ["RealNVP on a grid", "Glow, dense, context", "TableFlow", "TableFlow, context"]
SLOW = ["RealNVP", "NICE, context", "NICE of images", "ImageRealNVP"]
SLOW += ["ImageRealNVP, masked, context", "Glow, classes"]
KINDS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def has_onnx():
    return pytest.importorskip("onnxruntime", reason="needs pip install 'diffeo[onnx]'")


def loaded(path, to):
    """The file as a function of named tensors, loaded by another library alone."""
    if to == "torch":
        return torch.export.load(path).module()
    session = has_onnx().InferenceSession(path)

    def call(**inputs):
        given = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(session.run(None, given)[0])

    return call


@pytest.mark.parametrize("to", ["torch", "onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_compute_what_the_flow_computes(kind, to, tmp_path):
    """On other data than those that they were checked on, in batches of other sizes."""
    if to == "onnx":
        has_onnx()
        pytest.importorskip("onnxscript", reason="needs pip install 'diffeo[onnx]'")
    flow, x, context = small(kind)
    written = export(flow, tmp_path / "out", to)
    suffix = {"torch": ".pt2", "onnx": ".onnx"}[to]
    assert [file.path.name for file in written] == [f"score{suffix}", f"sample{suffix}"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        file.path.name for file in written
    )
    score, sample = (loaded(file.path, to) for file in written)
    for n in (1, 2, 17):
        rows = {} if context is None else {"context": context[:n]}
        drawn = {}
        if flow.dequantizer is not None:
            # What `log_prob` draws from this generator.
            noise = torch.rand(x[:n].shape, generator=torch.Generator().manual_seed(9))
            drawn = {"noise": noise}
        with torch.no_grad():
            wanted = flow.log_prob(
                x[:n], *rows.values(), generator=torch.Generator().manual_seed(9)
            )
            z = flow.noise(n) * 0.7
            decoded = flow.decode(z, *rows.values())
        got = score(x=x[:n], **drawn, **rows)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
        got = sample(z=z, **rows)
        assert got.dtype == decoded.dtype
        if flow.takes_pixels:
            off = (got.int() - decoded.int()).abs()
            assert off.max() <= 2 ** (8 - flow.dequantizer.bits)
            assert (off > 0).float().mean() <= 0.01
        else:
            torch.testing.assert_close(got, decoded, rtol=1e-4, atol=1e-3)
    # The flow is as it was.
    with torch.no_grad():
        again = flow.log_prob(x[:n], *rows.values(), generator=torch.Generator().manual_seed(9))
    assert torch.equal(again, wanted)


def test_half_a_cell_of_noise_is_its_middle(tmp_path):
    flow, x, labels = small("Glow, classes")
    [file] = export(flow, tmp_path, "torch", "score")
    score = loaded(file.path, "torch")
    with torch.no_grad():
        z = flow.encode(x, labels)
        onehot = torch.nn.functional.one_hot(labels, 3).float()
        _, log_det = flow.bijection(flow.dequantizer(x)[0], flow.context_encoder(onehot)[0])
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det
    got = score(x=x, noise=torch.full(x.shape, 0.5), context=labels)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def test_programs_hold_only_ordinary_operations_and_no_paths(tmp_path):
    flow, _, _ = small("Glow, dense, context")
    for file in export(flow, tmp_path, "torch"):
        program = torch.export.load(file.path)
        names = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert len(names) > 5
        assert all(name.startswith(("aten.", "<built-in function")) for name in names), names
        assert not {name for name in names if "linalg" in name or "mkldnn" in name}
        with zipfile.ZipFile(file.path) as archive:
            text = b"".join(archive.read(name) for name in archive.namelist())
        assert str(Path(diffeo.__file__).parent).encode() not in text


@pytest.mark.slow
def test_files_are_used_without_diffeo(tmp_path):
    """As the docstring says, in a process that cannot import it."""
    has_onnx()
    flow, x, _ = small("RealNVP")
    export(flow, tmp_path, "onnx", "score")
    export(flow, tmp_path, "torch", "sample")
    code = (
        "import sys; sys.modules['diffeo'] = None\n"
        "import numpy, onnxruntime, torch\n"
        "x = numpy.load('x.npy')\n"
        "session = onnxruntime.InferenceSession('score.onnx')\n"
        "[log_prob] = session.run(None, {'x': x})\n"
        "sample = torch.export.load('sample.pt2').module()\n"
        "z = torch.from_numpy(x)\n"
        "numpy.savez('out.npz', log_prob=log_prob, x=sample(z=z).detach().numpy())\n"
    )
    np.save(tmp_path / "x.npy", x.numpy())
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    out = np.load(tmp_path / "out.npz")
    with torch.no_grad():
        np.testing.assert_allclose(out["log_prob"], flow.log_prob(x), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(out["x"], flow.decode(x), rtol=1e-4, atol=1e-3)


# What is refused ----------------------------------------------------------------------------------


@pytest.fixture
def earlier(tmp_path):
    """A folder with what was exported before."""
    for name in ("score.pt2", "sample.pt2"):
        (tmp_path / name).write_text("earlier")
    return tmp_path


def untouched(folder):
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found == {"score.pt2": b"earlier", "sample.pt2": b"earlier"}


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("score", lambda y: y + 0.01),
        ("score", lambda y: y.double()),
        ("score", lambda y: y[:1]),
        ("score", lambda y: y * torch.nan),
        ("both", lambda y: y + 0.01 * (y.ndim == 2)),
    ],
)
def test_a_file_that_differs_is_not_written(what, change, earlier, monkeypatch):
    flow, _, _ = small("RealNVP")
    write = files.write_torch

    def wrong(program, path):
        call = write(program, path)
        return lambda inputs: change(call(inputs))

    monkeypatch.setitem(files.WRITERS, "torch", (".pt2", wrong))
    monkeypatch.setattr(files, "CHECKED", (5,))
    with pytest.raises(ValueError, match="exported"):
        export(flow, earlier, "torch", what)
    assert untouched(earlier)


def test_pixels_may_be_off_by_a_level_and_few(monkeypatch):
    flow, _, _ = small("NICE of images")
    program = Sample(prepare(flow))
    with torch.no_grad():
        _, truth = program.example(5)

    def off(index, by):
        wrong = truth.clone()
        wrong.view(-1)[index] = (wrong.view(-1)[index].int() + by).clamp(0, 248).to(torch.uint8)
        sign = 1 if (wrong != truth).any() else -1
        wrong.view(-1)[index] = (truth.view(-1)[index].int() + sign * by).to(torch.uint8)
        return lambda inputs: wrong

    monkeypatch.setattr(files, "PIXELS", 0.02)
    assert files.check(program, off(slice(0, 1), 8), 5) == 1 / 80
    with pytest.raises(ValueError, match="differs"):
        files.check(program, off(slice(0, 1), 16), 5)
    with pytest.raises(ValueError, match="differs"):
        files.check(program, off(slice(0, 4), 8), 5)


def test_what_depends_on_values_or_on_other_dequantizers_is_refused(earlier):
    class Moody(diffeo.Bijection):
        def forward(self, x, context=None):
            return (x if x.sum() > 0 else -x), x.new_zeros(x.shape[0])

        inverse = forward

    flow = diffeo.Flow(Moody(), 2)
    flow.register_buffer("like", torch.zeros(()))
    with pytest.raises(ValueError, match=r"needs a value of a tensor in Python.*torch.where"):
        export(flow, earlier, "torch")

    class Other(diffeo.bijections.Dequantizer):
        def forward(self, x):
            return x, x.new_zeros(len(x))

        inverse = forward

        def noisy(self, x, generator=None):
            return self(x)

    flow = diffeo.Flow(diffeo.RealNVP(2, layers=1).bijection, 2, dequantizer=Other())
    with pytest.raises(ValueError, match="Other cannot be exported"):
        export(flow, earlier, "torch")
    for options in (("tflite", "both"), ("torch", "all")):
        with pytest.raises(ValueError, match="no export"):
            export(flow, earlier, *options)
    assert untouched(earlier)


class Part(diffeo.Bijection):
    """A bijection of one function, for what exporters say of it."""

    def __init__(self, function):
        super().__init__()
        self.function, self.like = function, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, context=None):
        return self.function(x), x.new_zeros(x.shape[0])

    inverse = forward


@pytest.mark.parametrize(
    ("function", "to", "sentence"),
    [
        (
            lambda x: x * torch.ones(len(x), 1),
            "torch",
            "score of this flow cannot be traced: a part takes the number of rows for a constant, "
            "such as `len(x)`: write x.shape[0].",
        ),
        (
            lambda x: x if x.sum() > 0 else -x,
            "torch",
            "score of this flow cannot be traced: a part needs a value of a tensor in Python, such "
            "as `if x.sum() > 0` or `x.item()`: write it with operations on tensors, such as "
            "torch.where.",
        ),
        (
            lambda x: torch.from_numpy(x.numpy()),
            "torch",
            "score of this flow cannot be traced: PyTorch says: .numpy() is not supported for "
            "tensor subclasses.",
        ),
        (
            lambda x: torch.special.i1e(x),
            "onnx",
            "this flow cannot be written as ONNX, since it lacks prims.bessel_i1e: export to torch,"
            " or write that part with other operations.",
        ),
    ],
)
def test_what_cannot_be_exported_is_named_by_its_true_cause(function, to, sentence, tmp_path):
    if to == "onnx":
        has_onnx()
        pytest.importorskip("onnxscript", reason="needs pip install 'diffeo[onnx]'")
    with pytest.raises(ValueError, match="this flow cannot be") as error:
        export(diffeo.Flow(Part(function), 2), tmp_path / "out", to, "score")
    assert str(error.value) == sentence


# All steps of their inverse are in a program, which takes half a minute to trace.
ITERATED = {"MixtureCDF", "GaussianMixtureMap", "CellCDF", "Bernstein", "Planar", "Sylvester"}
ITERATED |= {"DeepSigmoidal"}
# They look at values to know when to stop; and so do estimates with a random number of terms.
REFUSED = {("Continuous", Score), ("Continuous", Sample), ("Residual", Sample)}


def traces():
    for name in EXAMPLES:
        for program in (Score, Sample) if not name.startswith("Logit") else ():
            slow = program is Sample and name.split()[0] in ITERATED
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(name, program, marks=marks, id=f"{name}-{program.__name__}")


@pytest.mark.parametrize(("name", "program"), traces())
def test_every_bijection_can_be_traced_in_both_directions_or_says_why_not(name, program):
    entry = EXAMPLES[name]
    bijection, x = entry.ready(torch.float32), entry.x(1, torch.float32)
    bijection.register_buffer("like", torch.zeros(()))  # some have no tensor of their own
    shape = bijection(x, entry.context(1, torch.float32))[0].shape[1:]
    if len(shape) > 1:  # noise is flat
        bijection = diffeo.bijections.Chain(bijection, diffeo.bijections.Flatten(*shape))
    plain = prepare(diffeo.Flow(bijection, entry.shape, context=entry.context_features or None))
    if (name.split()[0], program) in REFUSED or not entry.exact:
        with pytest.raises(ValueError, match=r"of this flow cannot be traced: .+\.$"):
            files.trace(program(plain))
    else:
        assert files.trace(program(plain))


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    flow, _, _ = small("RealNVP")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"onnxscript is missing.*pip install 'diffeo\[onnx\]'"):
        export(flow, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flow_in_float64_or_training_is_exported_in_float32(tmp_path):
    flow, x, _ = small("RealNVP")
    double = copy.deepcopy(flow).double().train()
    [file] = export(double, tmp_path, "torch", "score")
    with torch.no_grad():
        wanted = flow.log_prob(x)
    got = loaded(file.path, "torch")(x=x)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
    assert double.training
    assert double.dims == 3
    assert next(double.parameters()).dtype == torch.float64


# The command --------------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    flow, x, context = small("NICE, context")
    flow.save_pretrained("model")
    assert main(["export", "model", "--to=torch", "--out=files"]) == 0
    out = capsys.readouterr().out
    assert "files/score.pt2: x (batch, 3) float32, context (batch, 2) float32 -> log_prob" in out
    assert "files/sample.pt2: z (batch, 3) float32, context (batch, 2) float32 -> x" in out
    got = loaded("files/score.pt2", "torch")(x=x, context=context)
    with torch.no_grad():
        torch.testing.assert_close(got, flow.log_prob(x, context), rtol=1e-4, atol=1e-3)
    refused(["export", "nowhere", "--to=torch"], capsys, "nowhere")
    refused(["export", "model", "--to=tflite"], capsys, "onnx", "torch")
    refused(["export", "model"], capsys, "to")
