"""Inspect: how likely one's own images or rows are, and where that falls."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffeo.explorer import images, inspecting, uploads
from diffeo.explorer.events import answers
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import IN_TURN, Begin, sent, upload

FEW = 8  # images of the data that are shown at first


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the tab is opened: `(handler, inputs, outputs)`."""
    of_images = subject.kind == "images"
    with gr.Row(elem_classes="pair wide"):
        if of_images:
            own = upload("Drop images here, or choose some", many=True, elem_id="inspect-own")
        else:
            kind = ".csv,text/csv"
            own = upload("Drop a CSV here, or choose one", kind=kind, elem_id="inspect-own")
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
    levels = gr.HTML(elem_id="inspect-levels")
    outputs = [head, numbers, place, levels, message]

    def report(found: inspecting.Findings, what: str) -> list[Any]:
        drawn = inspecting.levels(subject, found)
        if not of_images:
            drawn = inspecting.own_corner(subject, found) + drawn
        line = images.note(inspecting.summary(subject, found, what))
        line += images.note(inspecting.comparison(subject, found))
        table = inspecting.numbers(subject, found)
        table += images.note(inspecting.meaning(subject, found))
        return [line, table, inspecting.place(subject, found), drawn]

    @answers
    def begin() -> list[Any]:
        if of_images:
            chosen = [subject.image(number) for number in range(min(FEW, subject.image_count))]
            x, contexts, names = inspecting.joined(chosen)
        else:
            x, contexts, names = inspecting.some_rows(subject)
        what = "Test data" if subject.data is not None else "The model's own samples"
        return report(inspecting.find(subject, x, names, contexts), what)

    def own_images(files: list[uploads.Upload]) -> list[Any]:
        x, names, sentences = uploads.read_images(subject, files)
        if not len(x):
            raise ValueError(" ".join(sentences))
        result = report(inspecting.find(subject, x, names), "Your images")
        result[0] = "".join(images.trouble(sentence) for sentence in sentences) + result[0]
        return result

    @answers
    def bring(event: gr.EventData) -> list[Any]:
        files = uploads.receive(sent(event, "files"))
        if of_images:
            return own_images(files)
        x, context = uploads.read_rows(subject, files[0])
        names = [f"row {i + 1}" for i in range(len(x))]
        whole = f"the first rows of {files[0].name}" if len(x) == uploads.ROWS else files[0].name
        return report(inspecting.find(subject, x, names, context), whole)

    own.upload(bring, None, outputs, **IN_TURN, trigger_mode="multiple", show_progress_on=head)
    some.click(begin, None, outputs, **IN_TURN, show_progress_on=head)
    return Begin(begin, [], outputs)
