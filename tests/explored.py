"""Small models with their data, as the explorer shows them."""

import base64
import io

import numpy as np
import torch
from PIL import Image

import diffeo
from diffeo.context import ContextSpec
from diffeo.explorer.subject import Subject
from diffeo.run import Run

DIGITS = "data:\n  source: digits\n  rows: 120\n  splits: [0.6, 0.2, 0.2]\n"
MOONS = "data:\n  source: moons\n  rows: 500\n  splits: [0.8, 0.1, 0.1]\n"


def perturbed(flow: diffeo.Flow) -> diffeo.Flow:
    """Away from its start, where every coupling leaves everything as it is."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return flow.eval()


def glow(context=None) -> diffeo.Flow:
    flow = diffeo.Glow((1, 8, 8), 2, 1, 8, context=context)
    x = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    labels = torch.eye(10)[torch.arange(64) % 10] if context else None
    return perturbed(flow.initialize(x, labels))


def real_nvp() -> diffeo.Flow:
    flow = perturbed(diffeo.RealNVP(2, layers=3, hidden=(8,)).initialize(torch.randn(64, 2) * 3))
    flow.metadata["columns"] = ["x", "y"]
    return flow


def make_subject(name: str, folder) -> Subject:
    """The subject "digits", "labels" (digits by their label) or "moons", written below a folder."""
    context = ContextSpec.classes(10) if name == "labels" else None
    flow = real_nvp() if name == "moons" else glow(context)
    data = {"digits": DIGITS, "labels": DIGITS + "  context: [label]\n", "moons": MOONS}[name]
    flow.save_pretrained(folder / name / "model")
    (folder / name / "config.yaml").write_text(data)
    return Subject(Run(folder / name))


def drawn(width=20, height=20, kind="PNG", mode="L", **options) -> bytes:
    """A file of an image: a ramp from left to right."""
    ramp = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def message(*files) -> list[dict]:
    """Files `(name, bytes)` as the page sends them."""
    return [{"name": n, "data": base64.b64encode(c).decode()} for n, c in files]
