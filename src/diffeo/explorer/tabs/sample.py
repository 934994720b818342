"""Sample: temperature, seed, label, and which level's noise to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from torch import Tensor

from diffeo import figures
from diffeo.explorer import charts, images, inspecting, sampling
from diffeo.explorer.conditions import ANY
from diffeo.explorer.events import answers
from diffeo.explorer.links import name_controls
from diffeo.explorer.plane import Plane
from diffeo.explorer.subject import COOL, Subject, first, table_of
from diffeo.explorer.tabs.parts import AT_ONCE, Begin, context_controls, on_move
from diffeo.models.guided import can_be_guided

AS_IN_DATA = "Draw the numbers as they occur in the data"
ROWS, COLUMNS = 1_000, 12  # of samples of a table, and charts of its columns at most
FEW = 8  # samples of a table in numbers


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the page is opened: `(handler, inputs, outputs)`."""
    of_images, conditions = subject.kind == "images", subject.conditions
    guides = can_be_guided(subject.flow)
    levels = sampling.level_names(subject)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=280, elem_classes="controls"):
            temperature = gr.Slider(
                0,
                sampling.HOTTEST,
                value=COOL if of_images else 1.0,
                step=0.05,
                label="Temperature",
                elem_id="temperature",
                info="The noise is multiplied by this number. 1 draws from the model itself; below "
                "1 samples are more typical, above 1 they are odder.",
            )
            guidance = gr.Slider(
                0,
                sampling.STRONGEST,
                value=sampling.GUIDANCE if guides else 0,
                step=0.25,
                label="Guidance",
                elem_id="guidance",
                visible=guides,
                info="0 draws from the model itself; above it, images are moved towards their "
                "class.",
            )
            with gr.Row(elem_classes="pair"):
                seed = gr.Number(
                    0,
                    label="Seed",
                    precision=0,
                    minimum=0,
                    maximum=2**31 - 1,
                    min_width=90,
                    elem_id="seed",
                )
                redraw = gr.Button("Redraw", elem_id="redraw", min_width=90)
            side = gr.Radio(
                [(f"{n} × {n}", n) for n in sampling.SIDES],
                value=4,
                label="Grid",
                elem_id="grid",
                visible=of_images,
            )
            controls = context_controls(conditions, any_of=True) if conditions else []
            as_data = gr.Checkbox(True, label=AS_IN_DATA, visible=conditions.has_numbers)
            held = gr.CheckboxGroup(
                [(name, i) for i, name in enumerate(levels, start=1)],
                label="Hold the noise of",
                elem_id="held",
                visible=len(levels) > 1,
                info="A new seed draws the others anew.",
            )
        with gr.Column(scale=3, min_width=280, elem_classes="sticky first"):
            shown = gr.HTML(elem_id="samples", elem_classes="stage")
            message = gr.HTML(elem_id="sample-trouble", elem_classes="message")
    listed = gr.HTML(elem_id="sample-rows", visible=not of_images)
    seeds = gr.State([0] * len(levels))
    inputs = [seeds, seed, side, temperature, guidance, held, as_data, *controls]
    switch = inputs.index(as_data)

    def values(as_data: bool, given: Sequence[Any]) -> list[Any]:
        pairs = zip(conditions.controls, given, strict=True)
        return [ANY if as_data and not control.values else value for control, value in pairs]

    def drawn_with(
        seeds: list[int],
        seed: int,
        side: int,
        temperature: float,
        guidance: float,
        held: list[int],
        as_data: bool,
        *given: Any,
    ) -> list[Any]:
        seeds = sampling.reseed(seeds, held, seed)
        count = side**2 if of_images else ROWS
        chosen = values(as_data, given)
        x, context = sampling.sample(subject, count, seeds, temperature, chosen, guidance)
        x, context, amiss = sampling.finite_only(subject, x, context, temperature)
        return [seeds, show(subject, x, context, side, amiss), some(subject, x)]

    @answers
    def draw(*given: Any) -> list[Any]:
        return drawn_with(*given)

    @answers
    def redraw_all(seeds: list[int], seed: int, *rest: Any) -> list[Any]:
        seed = (seed + 1) % 2**31
        return [*drawn_with(seeds, seed, *rest), seed]

    @answers
    def draw_number(*given: Any) -> list[Any]:
        return [*drawn_with(*given[:switch], False, *given[switch + 1 :]), False]

    outputs = [seeds, shown, listed]
    for control in (temperature, guidance, seed, side, as_data):
        on_move(control, draw, inputs, [*outputs, message])
    for variable, control in zip(conditions.controls, controls, strict=True):
        if variable.values:
            on_move(control, draw, inputs, [*outputs, message])
        else:  # the numbers count as soon as one of them is moved
            on_move(control, draw_number, inputs, [*outputs, as_data, message])
    redraw.click(redraw_all, inputs, [*outputs, seed, message], **AT_ONCE)
    linked = {"seed": seed, "temperature": temperature}
    if of_images:
        linked["grid"] = side
    if guides:
        linked["guidance"] = guidance
    if conditions.has_numbers:
        linked["as-data"] = as_data
    linked |= name_controls([control.name for control in conditions.controls], controls, linked)
    return Begin(draw, inputs, [*outputs, message], linked)


def show(subject: Subject, x: Tensor, context: Tensor | None, side: int, amiss: str = "") -> str:
    """Samples as a grid of images, or as figures of a table, and what is amiss with some."""
    if subject.kind == "images":
        words = ["a sample"] * len(x)
        if context is not None:
            words = [f"a sample: {subject.conditions.describe(row[None])}" for row in context]
        save = images.save_link(figures.tile(x, side), "samples.png")
        return images.grid(x, words, side) + save + images.note(amiss)
    if subject.kind == "plane" and (outside := Plane(subject).outside(x)):
        amiss += f" {outside:,} of {len(x):,} samples lie outside of the plane that is shown."
    return drawn(subject, x) + images.note(amiss)


def some(subject: Subject, x: Tensor) -> str:
    """The first samples of a table in numbers."""
    if subject.kind == "images":
        return ""
    head = [[f"{value:.4g}".replace("-", "−") for value in row] for row in x[:FEW].tolist()]
    return images.rows(subject.run.columns, head, f"the first {len(head)} of {len(x):,} samples")


def drawn(subject: Subject, x: Tensor) -> str:
    """Samples of a table: as points of a plane, or against the data, or column by column."""
    if subject.kind == "plane":
        return Plane(subject).scatter(x)
    columns = subject.run.columns
    if (table := table_of(subject)) is not None:
        alt = "Rows of the data in blue, and samples in orange, pair by pair."
        return inspecting.corner(first(table.train, ROWS)[0], x, columns, alt)
    parts = [
        charts.histogram(
            x[:, i].double().numpy(), name, f"Histogram of samples of {name}.", title=name
        )
        for i, name in enumerate(columns[:COLUMNS])
    ]
    return f'<div class="charts">{"".join(parts)}</div>'
