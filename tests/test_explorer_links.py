"""The address of the page: what it says of the controls, and how it is read."""

import pytest
import torch
from explored import make_subject

from diffeo.context import Category, ContextSpec, Number
from diffeo.explorer import editing, mixing
from diffeo.explorer.conditions import Conditions, make_controls

pytest.importorskip("gradio", reason="needs gradio")
import gradio

from diffeo.explorer import links
from diffeo.explorer.tabs.parts import context_controls

KNOWN = torch.tensor([[1.0, 0, 0.200013, 0], [0, 1, 0.799991, 1], [0, 1, 0.31, 1]])
SPEC = ContextSpec((Category("kind", ("a", "b")), Number("size"), Number("dark")))


def linked():
    controls = Conditions(make_controls(SPEC, KNOWN.amin(0), KNOWN.amax(0)), KNOWN)
    found = {
        "seed": gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=9),
        "grid": gradio.Radio([("2 × 2", 2), ("4 × 4", 4)], value=4, label="Grid"),
        "as-data": gradio.Checkbox(True, label="As data"),
    }
    names = [control.name for control in controls.controls]
    return found | links.name_controls(names, context_controls(controls, any_of=True), found)


def test_values_come_back_as_the_controls_have_them():
    query = links.query_of("?tab=Sample&seed=7&grid=2&as-data=false&kind=b&size=0.31&unknown=5")
    values, refused = links.read(query, linked())
    assert values == {"seed": 7, "grid": 2, "as-data": False, "kind": "b", "size": 0.31}
    assert not refused


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("seed=11", "In the address, Seed is 11: write a whole number from 0 to 9."),
        ("seed=2.5", "In the address, Seed is '2.5': write a whole number from 0 to 9."),
        ("size=nan", "In the address, Size is nan: write a number from 0.2 to 0.8."),
        ("size=<b>", "In the address, Size is '<b>': write a number from 0.2 to 0.8."),
        ("grid=3", "In the address, Grid is '3': choose from 2 × 2, 4 × 4."),
        ("as-data=1", "In the address, \"As data\" is '1': choose yes or no."),
        ("kind=", "In the address, Kind is empty: choose from any, a, b."),
    ],
)
def test_what_is_no_value_of_its_control_is_a_sentence(word, sentence):
    values, refused = links.read(links.query_of(f"?{word}&dark=1"), linked())
    assert values == {"dark": 1.0}
    assert refused == [sentence]


def test_any_text_is_an_address():
    for text in ("", "?", "?&&==&", "?%ff=%00", "?seed", "tab=Edit", "?" + "a" * 10**6):
        assert isinstance(links.query_of(text), dict)
    assert links.query_of("?label%3D3=0.5&x=1%2C2") == {"label=3": "0.5", "x": "1,2"}


def test_a_variable_called_as_a_control_has_another_name():
    controls = [object(), object(), object()]
    named = links.name_controls(["seed", "tab", "size"], controls, ["seed"])
    assert [*named] == ["context.seed", "context.tab", "size"]


def test_numbers_are_shown_in_few_digits_and_the_image_stays_bit_for_bit():
    controls = make_controls(SPEC, KNOWN.amin(0), KNOWN.amax(0))
    _, size, dark = controls
    assert (size.low, size.high) == (0.2, 0.8)
    assert [control.read(KNOWN[1:2]) for control in controls] == ["b", 0.8, 1.0]
    assert (dark.low, dark.high) == (0.0, 1.0)
    large = make_controls(ContextSpec((Number("n"),)), torch.tensor([-4e6]), torch.tensor([1.23e7]))
    assert large[0].read(torch.tensor([[1234567.0]])) == 1_230_000


def test_a_number_begins_as_it_is_usual():
    """Truth values begin as one of them, and not as half of each."""

    class Given:
        context = SPEC

    conditions = Conditions.of(Given(), KNOWN)
    assert [control.first for control in conditions.controls] == ["a", 0.31, 1.0]


def test_an_edit_of_one_number_leaves_the_others_as_they_are(tmp_path):
    """And not as they are shown."""
    subject = make_subject("labels", tmp_path)
    x, _, caption = subject.image(0)
    context = torch.zeros(1, 10)
    context[0, 3] = 1.0001  # which no class has
    slot = mixing.slot(subject, x, context, caption)
    assert torch.equal(editing.edit(subject, slot, editing.rest(subject, slot)), x)
    other = editing.edit(subject, slot, ["5"])
    expected = torch.eye(10)[5:6]
    from diffeo.latent.arithmetic import decode

    assert torch.equal(other, decode(subject.flow, slot.z, expected))
