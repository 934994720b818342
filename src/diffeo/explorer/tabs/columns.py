"""Columns: what the columns of a mixed table are, and the data against samples."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffeo.data.tables.grids import Floats
from diffeo.explorer import columns, images
from diffeo.explorer.events import answers
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import AT_ONCE, Begin

BOTH = "Blue bars are the data; the orange outline is {n:,} samples of the model."
ALONE = "The orange outline is {n:,} samples of the model."
SEEDS = 2**31


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the page is opened: `(handler, inputs, outputs)`."""
    names = [column.name for column in columns.mixed_flow(subject).schema.modelled]
    chosen = columns.start_pair(subject)
    gr.HTML(columns.schema(subject), elem_id="schema")
    with gr.Row(elem_classes="pair wide"):
        gr.HTML(images.note((ALONE if subject.data is None else BOTH).format(n=columns.DRAWN)))
        redraw = gr.Button("New samples", elem_id="redraw", scale=0, min_width=160)
    message = gr.HTML(elem_id="columns-trouble", elem_classes="message")
    marginals = gr.HTML(elem_id="marginals", elem_classes="stage")
    several = len(names) > 1
    with gr.Row(elem_classes="pair wide", visible=several):
        menus = [
            gr.Dropdown(names, value=value, label=label, elem_id=f"pair-{i}", min_width=130)
            for i, (label, value) in enumerate(
                zip(("First column", "Second column"), chosen, strict=True)
            )
        ]
    pair = gr.HTML(elem_id="pair", visible=several)
    seed, samples = gr.State(0), gr.State(columns.draw(subject, 0))

    def show(samples: Floats, a: str, b: str) -> list[Any]:
        return [columns.marginals(subject, samples), columns.two(subject, samples, (a, b))]

    @answers
    def begin(samples: Floats, a: str, b: str) -> list[Any]:
        return show(samples, a, b)

    @answers
    def draw(seed: int, a: str, b: str) -> list[Any]:
        seed = (seed + 1) % SEEDS
        samples = columns.draw(subject, seed)
        return [*show(samples, a, b), seed, samples]

    @answers
    def choose(samples: Floats, a: str, b: str) -> Any:
        return columns.two(subject, samples, (a, b))

    redraw.click(draw, [seed, *menus], [marginals, pair, seed, samples, message], **AT_ONCE)
    for menu in menus:
        menu.input(choose, [samples, *menus], [pair, message], **AT_ONCE)
    return Begin(begin, [samples, *menus], [marginals, pair, message])
