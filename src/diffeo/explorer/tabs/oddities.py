"""Inspect: the odd rows and cells of a mixed table."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffeo.explorer import images, inspecting, oddities, uploads
from diffeo.explorer.events import answers
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import IN_TURN, Begin, sent, upload


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the tab is opened: `(handler, inputs, outputs)`."""
    with gr.Row(elem_classes="pair wide"):
        label, kind = "Drop a CSV here, or choose one", ".csv,text/csv"
        own = upload(label, kind=kind, elem_id="inspect-own")
        some = gr.Button(
            "Some of the data" if subject.data is not None else "Some samples",
            elem_id="inspect-data",
            min_width=130,
        )
    message = gr.HTML(elem_id="inspect-trouble", elem_classes="message")
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=1, min_width=280):
            head = gr.HTML(elem_id="inspect-head")
        with gr.Column(scale=1, min_width=280):
            place = gr.HTML(elem_id="inspect-place")
    numbers = gr.HTML(elem_id="inspect-numbers")
    outputs = [head, numbers, place, message]

    def report(rows: oddities.Rows, what: str) -> list[Any]:
        found = oddities.find(subject, rows)
        lines = [inspecting.summary(subject, found, what), inspecting.comparison(subject, found)]
        lines.append(oddities.meaning(subject, found))
        head = "".join(map(images.note, lines))
        table = oddities.table(subject, rows, found)
        return [head, table, inspecting.place(subject, found)]

    @answers
    def begin() -> list[Any]:
        return report(oddities.some_rows(subject), oddities.source(subject))

    @answers
    def bring(event: gr.EventData) -> list[Any]:
        file = uploads.receive(sent(event, "files"))[0]
        frame, x, context = uploads.read_mixed_rows(subject, file)
        names = [f"row {i + 1}" for i in range(len(x))]
        whole = f"the first rows of {file.name}" if len(x) == uploads.ROWS else file.name
        return report(oddities.Rows(frame, x, context, names), whole)

    own.upload(bring, None, outputs, **IN_TURN, trigger_mode="multiple", show_progress_on=head)
    some.click(begin, None, outputs, **IN_TURN, show_progress_on=head)
    return Begin(begin, [], outputs)
