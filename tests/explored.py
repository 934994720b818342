"""Small models with their data, as the explorer shows them."""

import base64
import io

import numpy as np
import pandas as pd
import torch
from PIL import Image

import diffeo
from diffeo.context import ContextSpec
from diffeo.data import DataOptions, load_data, load_mixed
from diffeo.data.tables.mixed import as_conditions
from diffeo.evaluation.scores import Reference
from diffeo.explorer.subject import Subject
from diffeo.run import Run
from diffeo.training.mixed import Settings, fit_mixed

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


def visits(rows=200, seed=0) -> pd.DataFrame:
    """A table of all kinds of columns."""
    source = np.random.default_rng(seed)
    ward = source.choice(["east", "north", "west"], rows, p=[0.5, 0.3, 0.2])
    days = source.integers(0, 90, rows)
    frame = pd.DataFrame(
        {
            "ward": ward,
            "smoker": np.where(source.random(rows) < 0.4, "yes", "no"),
            "calls": source.poisson(2, rows),
            "dose": np.where(source.random(rows) < 0.5, 0.0, source.exponential(size=rows)),
            "oxygen": np.round(95 + source.normal(size=rows) - 4 * (ward == "west"), 1),
            "weight": 70 + 8 * source.normal(size=rows) + 0.1 * days,
            "day": pd.Timestamp("2024-03-01") + pd.to_timedelta(days, "D"),
        }
    )
    frame.loc[::15, "oxygen"] = np.nan
    frame.loc[::20, "smoker"] = None
    return frame


def mixed_run(folder, frame=None, context=()) -> Run:
    """A run that has learned a mixed table, in its folder."""
    folder.mkdir(parents=True)
    frame = visits() if frame is None else frame
    frame.to_csv(folder / "visits.csv", index=False)
    options = DataOptions(str(folder / "visits.csv"), context=[*context] or None)
    table = load_data(options, load_table=load_mixed)
    x, given = table.train.x, table.train.context
    conditions = None if given is None else as_conditions(table.conditions, given)
    flow = fit_mixed(
        table.schema,
        x,
        conditions=table.conditions,
        context=conditions,
        settings=Settings(networks=0),
    ).flow
    flow.metadata = {"data": "visits", "columns": table.columns}
    nats = flow.log_prob(table.val.x, table.val.context)
    Reference(
        len(nats),
        float(nats.mean()),
        tuple(nats.quantile(torch.linspace(0, 1, 101).double()).tolist()),
    ).attach(flow)
    flow.save_pretrained(folder / "model")
    names = f"  context: [{', '.join(context)}]\n" if context else ""
    source = f"data:\n  source: {folder / 'visits.csv'}\n  splits: [0.8, 0.1, 0.1]\n{names}"
    (folder / "config.yaml").write_text(source)
    return Run(folder)


def make_subject(name: str, folder) -> Subject:
    """The subject "digits", "labels" (digits by their label), "moons" or "visits", in a folder."""
    if name == "visits":
        return Subject(mixed_run(folder / name))
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
