"""Ask: fix some columns of a mixed table, and see what the others are then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from diffeo.explorer import asking, images
from diffeo.explorer.asking import Question
from diffeo.explorer.events import answers
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import AT_ONCE, IN_TURN, Begin, on_move
from diffeo.schema import CategoryColumn

HINT = (
    "Move a control, and its column is given that value: the blue bars show what all others are "
    "then. The orange outline is the model without anything given."
)


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the tab is opened: `(handler, inputs, outputs)`."""
    asked = asking.questions(subject)
    count = len(asked)
    with gr.Row(elem_classes="pair wide"):
        gr.HTML(images.note(HINT), elem_id="ask-hint")
        clear = gr.Button("Reset", elem_id="ask-clear", scale=0, min_width=110)
    message = gr.HTML(elem_id="ask-trouble", elem_classes="message")
    charts, checks, controls = [], [], []
    with gr.Row(elem_classes="cards"):
        for i, question in enumerate(asked):
            with gr.Column(elem_classes="card", min_width=280):
                charts.append(gr.HTML(elem_id=f"answer-{i}"))
                name, free = question.column.name, question.usual is not None
                checks.append(
                    gr.Checkbox(
                        not free,
                        label=f"{name} is given",
                        interactive=free,
                        elem_id=f"given-{i}",
                        container=False,
                    )
                )
                controls.append(_control(question, i))
    draw = gr.Button(f"Draw {asking.ROWS} rows given these", elem_id="ask-draw")
    drawn = gr.HTML(elem_id="ask-rows")
    inputs = [*checks, *controls]

    def cards(values: list[Any]) -> list[str]:
        given, raws = values[:count], values[count:]
        found = asking.ask(subject, asked, given, raws)
        parts = zip(asked, given, raws, strict=True)
        return [
            asking.held(question, raw) if on else asking.card(question, found)
            for question, on, raw in parts
        ]

    @answers
    def show(*values: Any) -> list[Any]:
        return cards([*values])

    def moved(i: int) -> Callable[..., Any]:
        @answers
        def move(*values: Any) -> list[Any]:
            given = [*values]
            given[i] = True  # what is moved counts from then on
            return [*cards(given), True]

        return move

    @answers
    def nothing(*values: Any) -> list[Any]:
        given = [question.usual is None for question in asked]
        return [*cards([*given, *values[count:]]), *given]

    @answers
    def rows(*values: Any) -> Any:
        return asking.rows(subject, asked, values[:count], values[count:])

    for i, (check, control) in enumerate(zip(checks, controls, strict=True)):
        on_move(check, show, inputs, [*charts, message])
        on_move(control, moved(i), inputs, [*charts, check, message])
    clear.click(nothing, inputs, [*charts, *checks, message], **AT_ONCE)
    draw.click(rows, inputs, [drawn, message], **IN_TURN, show_progress_on=drawn)
    return Begin(show, inputs, [*charts, message])


def _control(question: Question, i: int) -> Any:
    name = f"ask-{i}"
    if isinstance(question.column, CategoryColumn):
        label, first = question.label, int(question.first)
        return gr.Dropdown(question.choices, value=first, label=label, elem_id=name)
    return gr.Slider(
        question.low,
        question.high,
        value=question.first,
        step=question.step,
        label=question.label,
        elem_id=name,
    )
