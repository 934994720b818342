"""Interpolate: between two or four images, from the data or one's own."""

from __future__ import annotations

from typing import Any, get_args

import gradio as gr

from diffeo.explorer import images, mixing, uploads
from diffeo.explorer.events import answers
from diffeo.explorer.mixing import STEPS, Slot
from diffeo.explorer.subject import Subject
from diffeo.explorer.tabs.parts import (
    AT_ONCE,
    BROUGHT,
    IN_TURN,
    Begin,
    asset,
    on_move,
    sent,
    upload,
)
from diffeo.latent import PathKind

CORNERS = ["A", "B", "C", "D"]
TWO, FOUR = "two images", "four images"


def add(subject: Subject) -> Begin:
    """Lay out the tab; what is to be done when the page is opened: `(handler, inputs, outputs)`."""
    slots = gr.State(None)
    cards, others, owns, columns = [], [], [], []
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=280, elem_classes="controls"):
            count = gr.Radio([TWO, FOUR], value=TWO, label="Between", elem_id="between")
            with gr.Row(elem_classes="slots"):
                for i, corner in enumerate(CORNERS):
                    with gr.Column(min_width=120, visible=i < 2, elem_classes="slot") as column:
                        cards.append(gr.HTML(elem_id=f"slot-{corner}"))
                        button = gr.Button(f"Another {corner}", elem_id=f"another-{corner}")
                        others.append(button)
                        owns.append(upload(f"Your own {corner}", elem_id=f"own-{corner}"))
                    columns.append(column)
            message = gr.HTML(elem_id="interpolate-trouble", elem_classes="message")
            kind = gr.Radio(
                list(get_args(PathKind)),
                value="spherical",
                label="Path",
                elem_id="path",
                info="Spherical paths preserve the length of the noise; linear ones are straight.",
            )
        with gr.Column(scale=3, min_width=280, elem_classes="first"):
            with gr.Row(elem_classes="mixer"):
                shown = gr.HTML(elem_id="mixed", elem_classes="stage")
                pad = gr.HTML(
                    {"across": STEPS // 2, "down": STEPS // 2},
                    html_template=asset("pad.html"),
                    js_on_load=asset("pad.js"),
                    elem_id="pad",
                    visible=False,
                )
            across = gr.Slider(
                0, STEPS, value=STEPS // 2, step=1, label="From A to B, %", elem_id="across"
            )
            down = gr.Slider(
                0,
                STEPS,
                value=STEPS // 2,
                step=1,
                label="Downwards to C and D, %",
                elem_id="down",
                visible=False,
            )
            frames = gr.HTML(elem_id="strip")
            make = gr.Button("Make a GIF", elem_id="make-gif")
            gif = gr.HTML(elem_id="gif")

    def image(slots: list[Slot], count: str, across: int, down: int, kind: PathKind) -> str:
        if count == FOUR:
            x = mixing.between_four(subject, slots, int(across), int(down), kind)
            place = f"{int(across)} % across, {int(down)} % down"
        else:
            x = mixing.between_two(subject, slots, int(across), kind)
            place = f"{int(across)} % of the path from A to B"
        return images.captioned(x[0], place)

    def strip(slots: list[Slot], count: str, kind: PathKind) -> str:
        pairs = [(0, 1), (2, 3)] if count == FOUR else [(0, 1)]
        strips = []
        for a, b in pairs:
            x = mixing.strip(subject, [slots[a], slots[b]], kind)
            names = [
                f"frame {i + 1} of {len(x)}, {CORNERS[a]} to {CORNERS[b]}" for i in range(len(x))
            ]
            strips.append(images.grid(x, names, len(x), small=True))
        return "".join(strips)

    def all_of(slots: list[Slot], count: str, across: int, down: int, kind: PathKind) -> list[Any]:
        shown = [
            images.captioned(slot.x[0], slot.caption, name)
            for slot, name in zip(slots, CORNERS, strict=True)
        ]
        return [
            slots,
            *shown,
            image(slots, count, across, down, kind),
            strip(slots, count, kind),
            "",
        ]

    position = [count, across, down, kind]
    everything = [slots, *cards, shown, frames, gif, message]

    @answers
    def begin(count: str, across: int, down: int, kind: PathKind) -> list[Any]:
        slots = [mixing.slot(subject, *subject.image(number)) for number in range(len(CORNERS))]
        return all_of(slots, count, across, down, kind)

    def replaced(which: int) -> Any:
        @answers
        def another(slots: list[Slot], *position: Any) -> list[Any]:
            number = _next(subject, slots, which)
            slots = list(slots)
            slots[which] = mixing.slot(subject, *subject.image(number))
            return all_of(slots, *position)

        @answers
        def own(event: gr.EventData, slots: list[Slot], *position: Any) -> list[Any]:
            file = uploads.receive(sent(event, "files"))[0]
            x, name = uploads.read_image(subject, file)
            slots = list(slots)
            slots[which] = mixing.slot(subject, x, None, name)
            return all_of(slots, *position)

        return another, own

    for i in range(len(CORNERS)):
        another, own = replaced(i)
        others[i].click(another, [slots, *position], everything, **AT_ONCE)
        owns[i].upload(own, [slots, *position], everything, **BROUGHT)

    @answers
    def move(slots: list[Slot], count: str, across: int, down: int, kind: PathKind) -> str:
        return image(slots, count, across, down, kind)

    for slider in (across, down):
        on_move(slider, move, [slots, *position], [shown, message])

    @answers
    def turn(slots: list[Slot], count: str, across: int, down: int, kind: PathKind) -> list[Any]:
        return [image(slots, count, across, down, kind), strip(slots, count, kind), ""]

    kind.input(turn, [slots, *position], [shown, frames, gif, message], **AT_ONCE)

    @answers
    def lay_out(count: str) -> list[Any]:
        four = count == FOUR
        label = "Across, from A and C to B and D, %" if four else "From A to B, %"
        return [gr.update(visible=four) for _ in (*columns[2:], down, pad)] + [
            gr.update(label=label)
        ]

    count.input(lay_out, count, [*columns[2:], down, pad, across, message], **AT_ONCE).then(
        turn, [slots, *position], [shown, frames, gif, message], **AT_ONCE
    )

    @answers
    def pointed(slots: list[Slot], count: str, kind: PathKind, place: Any) -> list[Any]:
        right, below = (_step(place, name) for name in ("across", "down"))
        return [image(slots, count, right, below, kind), right, below]

    pad.input(pointed, [slots, count, kind, pad], [shown, across, down, message], **AT_ONCE)

    @answers
    def write(slots: list[Slot], count: str, kind: PathKind) -> str:
        content = mixing.film(subject, slots[: 4 if count == FOUR else 2], kind)
        source = images.address(content, "image/gif")
        return (
            f'<figure class="gif"><img src="{source}" alt="The path between the images, as a '
            f'film"><figcaption><a download="interpolation.gif" href="{source}">Download the '
            f"GIF, {len(content) / 1000:.0f} kB</a></figcaption></figure>"
        )

    make.click(write, [slots, count, kind], [gif, message], **IN_TURN)
    return Begin(begin, position, everything)


def _next(subject: Subject, slots: list[Slot], which: int) -> int:
    """An image that is shown in none of the slots; the next one after that of this slot."""
    taken = [slot.caption for slot in slots]
    words = slots[which].caption.rsplit(" ", 1)[-1]
    start = int(words) if words.isdigit() else which
    for step in range(1, subject.image_count + 1):
        number = (start + step) % subject.image_count
        if subject.image(number)[2] not in taken:
            return number
    return start


def _step(place: Any, name: str) -> int:
    value = place.get(name) if isinstance(place, dict) else None
    if not isinstance(value, int | float) or not 0 <= value <= STEPS:
        raise ValueError(f"the pad goes from 0 to {STEPS}, across and down: point inside of it.")
    return round(value)
