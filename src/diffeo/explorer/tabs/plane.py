"""Density and Flow, of models of two columns."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffeo.explorer.conditions import Conditions
from diffeo.explorer.events import answers
from diffeo.explorer.plane import Plane
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import AT_ONCE, Begin, asset, context_controls, on_move

HINT = (
    "Click into the plane, or move the cross with the arrow keys, to see the path of that point "
    "through the layers of the model."
)


def add_density(subject: Subject) -> Begin:
    """Lay out the tab of the density; what is to be done when it is opened."""
    columns, plain = subject.run.columns, _plane(subject, [])
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=1, min_width=280):
            shown = gr.HTML(
                {"x": 0.5, "y": 0.5},
                html_template="${chart}",
                chart=plain.density(),
                js_on_load=asset("plane.js"),
                elem_id="density",
                elem_classes="stage pickable",
            )
            gr.HTML(f'<p class="note">{HINT}</p>')
            with gr.Row(elem_classes="pair"):
                across = gr.Number(label=columns[0], elem_id="pick-x", min_width=100)
                up = gr.Number(label=columns[1], elem_id="pick-y", min_width=100)
            controls = _controls(subject.conditions)
        with gr.Column(scale=1, min_width=280):
            drawn = gr.HTML(elem_id="trajectory")
            message = gr.HTML(elem_id="density-trouble", elem_classes="message")
    steps = gr.HTML(elem_id="steps")

    def show(x: float, y: float, values: list[Any]) -> list[Any]:
        plane = _plane(subject, values) if values else plain
        path = plane.pick(x, y)
        return [gr.HTML(chart=plane.density(path)), plane.path(path), plane.steps(path)]

    outputs = [shown, drawn, steps]

    @answers
    def moved(x: float, y: float, *values: Any) -> list[Any]:
        return show(x, y, list(values))

    @answers
    def picked(place: Any, *values: Any) -> list[Any]:
        place = place if isinstance(place, dict) else {}
        x, y = plain.at(place.get("x"), place.get("y"))
        return [*show(x, y, list(values)), x, y]

    @answers
    def begin(*values: Any) -> list[Any]:
        x, y = (round(value, 3) for value in plain.data[0].tolist())
        return [*show(x, y, list(values)), x, y]

    shown.select(picked, [shown, *controls], [*outputs, across, up, message], **AT_ONCE)
    for control in (across, up, *controls):
        on_move(control, moved, [across, up, *controls], [*outputs, message])
    return Begin(begin, controls, [*outputs, across, up, message])


def add_flow(subject: Subject) -> Begin:
    """Lay out the tab of the film; what is to be done when it is opened."""
    film = gr.HTML(
        html_template=asset("film.html"), js_on_load=asset("film.js"), elem_id="film", value=None
    )
    with gr.Row(elem_classes="pair"):
        seed = gr.Number(
            0,
            label="Seed of the noise",
            precision=0,
            minimum=0,
            maximum=2**31 - 1,
            elem_id="film-seed",
            min_width=120,
        )
    controls = _controls(subject.conditions)
    message = gr.HTML(elem_id="film-trouble", elem_classes="message")

    @answers
    def draw(seed: int, *values: Any) -> Any:
        return _plane(subject, list(values)).film(seed)

    inputs = [seed, *controls]
    for control in inputs:
        on_move(control, draw, inputs, [film, message])
    return Begin(draw, inputs, [film, message])


def _controls(conditions: Conditions) -> list[Any]:
    return context_controls(conditions, any_of=False) if conditions else []


def _plane(subject: Subject, values: list[Any]) -> Plane:
    if not subject.conditions:
        return Plane(subject)
    values = values or [control.first for control in subject.conditions.controls]
    return Plane(subject, subject.conditions.row(values))
