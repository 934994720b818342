"""What each control of the explorer computes: noise, paths, edits, scores, uploads, layers."""

import asyncio
import io
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from commands import refused
from explored import drawn, glow, make_subject, message, perturbed
from PIL import Image

import diffeo
from diffeo import latent
from diffeo.bases import Logistic, Normal
from diffeo.cli import main
from diffeo.context import Category, ContextSpec, Number
from diffeo.evaluation.likelihood import mixture_log_prob
from diffeo.evaluation.scores import Reference as Usual
from diffeo.explorer import editing, inspecting, mixing, sampling, trajectory, uploads
from diffeo.explorer.conditions import ANY, Conditions, Control, make_controls
from diffeo.explorer.plane import Plane
from diffeo.explorer.reference import Reference
from diffeo.explorer.subject import Subject
from diffeo.run import Run


@pytest.fixture
def digits(tmp_path):
    return make_subject("digits", tmp_path)


@pytest.fixture
def labels(tmp_path):
    return make_subject("labels", tmp_path)


@pytest.fixture
def moons(tmp_path):
    return make_subject("moons", tmp_path)


# Sample


def test_one_seed_for_all_levels_is_the_command(digits):
    x, _ = sampling.sample(digits, 5, [3, 3], 0.7, [])
    assert torch.equal(x, digits.run.sample(5, temperature=0.7, seed=3))


def test_a_held_level_keeps_its_noise(digits):
    assert sampling.reseed([1, 2], [2], 5) == [5, 2]
    assert sampling.reseed([1, 2], [], 5) == [5, 5]
    flow = digits.flow
    z = sampling.noise(digits, 4, [5, 2])
    new, old = (flow.noise(4, torch.Generator().manual_seed(seed)) for seed in (5, 2))
    size = math.prod(flow.latent_shapes[0])
    assert torch.equal(z[:, :size], new[:, :size])
    assert torch.equal(z[:, size:], old[:, size:])


@pytest.mark.parametrize("temperature", [-0.1, 2.0, math.nan])
def test_a_temperature_out_of_range_is_refused(digits, temperature):
    with pytest.raises(ValueError, match="temperature"):
        sampling.sample(digits, 1, [0, 0], temperature, [])


# Conditions


def test_conditions_of_a_spec_and_data(labels):
    category = Category("label", [str(i) for i in range(10)])
    assert labels.conditions.controls == [Control(category, slice(0, 10))]
    assert torch.equal(labels.conditions.row(["3"]), torch.eye(10)[3:4])
    assert labels.conditions.values(torch.eye(10)[7:8]) == ["7"]
    assert labels.conditions.describe(torch.eye(10)[7:8]) == "label 7"
    drawn = labels.conditions.draw(50, 0)
    assert (drawn.sum(1) == 1).all()
    assert len(drawn.unique(dim=0)) > 5
    assert (labels.conditions.draw(4, 0, ["2"]) == torch.eye(10)[2]).all()
    with pytest.raises(ValueError, match="no label 11"):
        labels.conditions.row(["11"])


def test_numbers_stay_in_their_range():
    known = torch.tensor([[1.0, 0, 0.2], [0, 1, 0.8]])
    spec = ContextSpec((Category("kind", ("a", "b")), Number("size=cm")))
    conditions = Conditions(make_controls(spec, known.amin(0), known.amax(0)), known)
    assert conditions.row(["b", 9.0]).tolist() == [[0.0, 1.0, pytest.approx(0.8)]]
    assert conditions.row(["b", -9.0]).tolist() == [[0.0, 1.0, pytest.approx(0.2)]]
    assert [control.first for control in conditions.controls] == ["a", pytest.approx(0.5)]
    assert conditions.has_numbers
    rows = conditions.draw(40, 1, [ANY, ANY])  # whole rows of the data, whose parts go together
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in known.tolist()}
    rows = conditions.draw(40, 1, ["a", ANY])
    assert (rows[:, 0] == 1).all()
    assert len(rows[:, 2].unique()) == 2


def test_without_data_numbers_are_drawn_from_their_range():
    conditions = Conditions([Control(Number("size"), slice(0, 1), -1.0, 3.0)])
    rows = conditions.draw(500, 0)
    assert -1 <= rows.min() < -0.9
    assert 2.9 < rows.max() <= 3


def test_candidates_are_all_combinations_of_classes():
    spec = ContextSpec((Category("a", ("x", "y")), Category("b", ("p", "q", "r"))))
    rows = Conditions(make_controls(spec, torch.zeros(5), torch.ones(5))).candidates()
    assert len(rows.unique(dim=0)) == 6
    assert (rows[:, :2].sum(1) == 1).all()
    assert (rows[:, 2:].sum(1) == 1).all()


# Likelihood


def test_unlabelled_images_score_as_a_mixture(labels):
    x = labels.data.test.all(3)
    nats, guessed = labels.score(x)
    expected = mixture_log_prob(labels.flow, x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nats, expected)
    under = torch.stack(
        [
            labels.flow.log_prob(x, row.expand(3, -1), generator=torch.Generator().manual_seed(0))
            for row in torch.eye(10)
        ]
    )
    assert torch.equal(guessed.argmax(1), under.argmax(0))


def test_where_a_likelihood_falls():
    usual = Usual(4, 2.5, tuple(np.linspace(1, 4, 101)))
    reference = Reference(np.array([1.0, 2.0, 3.0, 4.0]), "four", usual)
    assert [reference.share_below(v) for v in (0.0, 2.5, 9.0)] == [0.0, 0.5, 1.0]
    assert reference.share_below(2.0) == 0.375  # one below, and half of the one that is equal
    assert math.isclose(reference.share_below(3.0), 0.625)


def test_a_model_without_its_data_remembers_what_is_usual(tmp_path):
    flow = glow()
    Usual(9, -5.0, tuple(float(v) for v in range(-110, -9))).attach(flow)
    flow.save_pretrained(tmp_path / "bare")
    subject = Subject(Run(tmp_path / "bare"))
    assert subject.reference.source == "9 held-out images"
    assert subject.reference.share_below(-60.0) == pytest.approx(0.5, abs=0.01)
    _, _, caption = subject.image(3)
    assert caption == "the model's sample 3"
    assert subject.missing


def test_what_is_found_of_images(digits):
    x = digits.data.test.all(2)
    found = inspecting.find(digits, x, ["one", "<two>"])
    expected = digits.flow.log_prob(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.nats, expected)
    held_out = digits.data.val.all()
    of_held_out = digits.flow.log_prob(held_out, generator=torch.Generator().manual_seed(0))
    share = (of_held_out < found.nats[0]).double().mean()
    assert found.shares[0] == pytest.approx(float(share), abs=0.01)
    mean = of_held_out.double().mean()
    torch.testing.assert_close(
        found.scores["typicality"].double(), -(found.nats.double() - mean).abs(), atol=0.01, rtol=0
    )
    assert digits.reference.source == "24 held-out images"
    table = inspecting.numbers(digits, found)
    assert "&lt;two&gt;" in table
    assert "<two>" not in table
    bits = -float(found.nats[0]) / digits.flow.dims / math.log(2)
    assert f"{bits:.3f}" in table
    assert inspecting.levels(digits, found).count("<svg") == 2
    assert "&lt;two&gt;" in inspecting.place(digits, found)


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "none"), (1.0, "all"), (0.37, "37 %"), (0.005, "0.5 %")]
)
def test_shares_in_words(share, words):
    assert inspecting.percent(share) == words


# Interpolate


def slots_of(subject, count=4):
    return [mixing.slot(subject, *subject.image(i)) for i in range(count)]


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_between_images_as_the_library_has_it(digits, kind):
    slots = slots_of(digits)
    x = torch.cat([slot.x for slot in slots])
    for step in (0, 25, 100):
        frames = latent.interpolate(digits.flow, x[:1], x[1:2], 101, kind)
        assert torch.equal(mixing.between_two(digits, slots, step, kind), frames[:, step])
    surface = latent.between_four(digits.flow, x, 5, 5, kind)
    for across, down in ((0, 0), (100, 0), (0, 100), (25, 75)):
        found = mixing.between_four(digits, slots, across, down, kind)
        assert torch.equal(found[0], surface[down // 25, across // 25])


def test_the_context_goes_along(labels):
    slots = slots_of(labels)
    x, contexts = (torch.cat([getattr(s, name) for s in slots]) for name in ("x", "context"))
    surface = latent.between_four(labels.flow, x, 3, 3, "spherical", contexts)
    found = mixing.between_four(labels, slots, 50, 50, "spherical")
    assert torch.equal(found[0], surface[1, 1])
    ends = contexts[:1], contexts[1:2]
    path = latent.interpolate(labels.flow, x[:1], x[1:2], 9, "linear", ends)
    assert torch.equal(mixing.strip(labels, slots, "linear"), path[0])


@pytest.mark.parametrize("count", [2, 4])
def test_a_film_goes_round(digits, count):
    content = mixing.film(digits, slots_of(digits, count), "spherical")
    with Image.open(io.BytesIO(content)) as film:
        assert film.format == "GIF"
        assert film.n_frames > count  # equal frames one after the other are one
        shown = sum(frame.info["duration"] for frame in frames_of(film))
    assert shown == count * (mixing.HELD + mixing.FILM - 2) * 70


def frames_of(film):
    for i in range(film.n_frames):
        film.seek(i)
        yield film


# Edit


def test_an_edit_that_changes_nothing_is_bit_for_bit(digits, labels):
    for subject in (digits, labels):
        slot = slots_of(subject, 1)[0]
        x = editing.edit(subject, slot, editing.rest(subject, slot))
        assert torch.equal(x, slot.x)
        assert editing.changed(slot.x, x) == "bit for bit the same"


def test_edits_are_those_of_the_library(digits, labels):
    slot = slots_of(labels, 1)[0]
    expected = latent.recondition(labels.flow, slot.x, slot.context, torch.eye(10)[4:5])
    assert torch.equal(editing.edit(labels, slot, ["4"]), expected)
    slot = slots_of(digits, 1)[0]
    values = [0.0] * len(digits.attributes)
    values[2] = 1.5
    name = digits.attributes[2]
    expected = latent.edit(digits.flow, slot.x, digits.directions, {name: 1.5})
    assert torch.equal(editing.edit(digits, slot, values), expected)
    assert "grey levels apart" in editing.changed(slot.x, 255 - slot.x)


def test_no_attribute_is_a_sentence(tmp_path):
    glow().save_pretrained(tmp_path / "bare")
    subject = Subject(Run(tmp_path / "bare"))
    assert subject.attributes == []
    with pytest.raises(ValueError, match="no attributes"):
        _ = subject.directions


# Uploads


def test_what_arrives_is_what_was_sent():
    assert uploads.receive(message(("a.png", b"\0\1"))) == [uploads.Upload("a.png", b"\0\1")]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (None, "no file"),
        ([], "no file"),
        ([{"name": "a.png", "data": None}], "a.png is larger than 10 MB"),
        ([{"name": "a.png", "data": "A" * (14 * 2**20)}], "a.png is larger than 10 MB"),
        ([{"name": "a.png", "data": "**"}], "a.png did not arrive whole"),
        ([{"name": "a.png", "path": "/etc/passwd"}], "a.png is larger"),
        (["/etc/passwd"], "did not arrive whole"),
        (message(*[("a.png", b"")] * 65), "65 files are too many"),
    ],
)
def test_what_cannot_be_taken_is_refused(sent, words):
    with pytest.raises(ValueError, match=words):
        uploads.receive(sent)


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    content = bytearray(drawn())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"plain text", "is not an image"),
        (b"", "is not an image"),
        (drawn(400, 400)[:600], "is damaged or incomplete"),
        (bomb(), "is too large to be opened safely"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not an image"),
    ],
)
def test_an_unreadable_image_is_a_sentence(digits, content, words):
    with pytest.raises(ValueError, match=f"^it.png {words}.*[.]$"):
        uploads.read_image(digits, uploads.Upload("it.png", content))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_a_image_is_scaled_and_cropped_as_in_training(digits, mode):
    x, name = uploads.read_image(digits, uploads.Upload("it.png", drawn(60, 30, mode=mode)))
    assert x.shape == (1, 1, 8, 8)
    assert x.dtype == torch.uint8
    assert name == "it.png, scaled and cropped to 8 x 8 pixels"
    # The middle square of the ramp, from a quarter to three quarters of its range.
    if mode != "1":
        assert x[0, 0, 0, 0] == pytest.approx(255 / 4 + 8, abs=8)
        assert x[0, 0, 0, -1] == pytest.approx(255 * 3 / 4 - 8, abs=8)


def test_of_an_animation_the_first_frame_is_taken(digits):
    frames = [Image.new("L", (9, 9), shade) for shade in (10, 120)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    x, name = uploads.read_image(digits, uploads.Upload("it.gif", buffer.getvalue()))
    assert name == "it.gif, the first frame, scaled to 8 x 8 pixels"
    assert (x == 10).all()


def test_grey_images_for_a_model_of_colours_that_is_not_square(tmp_path):
    flow = diffeo.Glow((3, 4, 8), 1, 1, 4)
    flow.initialize(torch.randint(256, (8, 3, 4, 8), dtype=torch.uint8)).eval()
    flow.save_pretrained(tmp_path / "wide")
    subject = Subject(Run(tmp_path / "wide"))
    x, name = uploads.read_image(subject, uploads.Upload("it.png", drawn(8, 4)))
    assert x.shape == (1, 3, 4, 8)
    assert (x[0, 0] == x[0, 1]).all()
    assert name == "it.png"
    (tmp_path / "grey").mkdir()
    (tmp_path / "grey/it.png").write_bytes(drawn(8, 4))
    assert torch.equal(subject.run.gallery(str(tmp_path / "grey")).images.all(), x)
    with pytest.raises(ValueError, match=r"^it.png holds 64 x 64 pixels .* takes 8 x 4 pixels"):
        uploads.read_image(subject, uploads.Upload("it.png", drawn(64, 64)))


@pytest.mark.parametrize("size", [None, 8], ids=["as they were", "scaled"])
def test_the_page_and_diffeo_score_scale_images_alike_and_say_so(tmp_path, size, capsys):
    flow = glow()
    flow.metadata["size"] = size  # of the training
    flow.save_pretrained(tmp_path / "model")
    subject, folder = Subject(Run(tmp_path / "model")), tmp_path / "images"
    folder.mkdir()
    files = {"a.png": drawn(8, 8), "b.png": drawn(40, 20), "c.jpeg": drawn(100, 100, "JPEG")}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    read = [uploads.read_image(subject, uploads.Upload(*file)) for file in files.items()]
    assert [name for _, name in read] == [
        "a.png",
        "b.png, scaled and cropped to 8 x 8 pixels",
        "c.jpeg, scaled to 8 x 8 pixels",
    ]
    gallery = subject.run.gallery(str(folder))
    assert torch.equal(gallery.images.all(), torch.cat([x for x, _ in read]))
    assert (
        main(
            ["score", str(tmp_path / "model"), "--data", str(folder), "--out", f"{tmp_path}/s.csv"]
        )
        == 0
    )
    assert "scaled and cropped 2 of 3 images to 8 x 8 pixels" in capsys.readouterr().out


def test_rows_of_a_csv(moons):
    x, context = uploads.read_rows(moons, uploads.Upload("a.csv", b"y,other,x\n1,a,2\n3,b,4\n"))
    assert x.tolist() == [[2, 1], [4, 3]]
    assert context is None
    for content, words in (
        (b"a,b\n1,2\n", "a.csv lacks the column 'x'"),
        (b"x,y\n1,two\n", "a.csv: column 'y' is not numeric"),
        (b"x,y\n", "a.csv"),
        (b"\x89PNG\0", "a.csv is not a CSV file"),
        (b"", "a.csv"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            uploads.read_rows(moons, uploads.Upload("a.csv", content))
        assert "/tmp" not in str(caught.value)


# The plane


def test_log_determinants_of_layers_add_up(moons):
    x = torch.randn(6, 2)
    layers = trajectory.encode_by_layer(moons.flow, x)
    assert layers.names == ["standardize"] + 3 * ["affine coupling"]
    torch.testing.assert_close(layers.log_prob, moons.flow.log_prob(x))
    torch.testing.assert_close(layers.points[-1], moons.flow.encode(x))
    assert torch.equal(layers.points[0], x)
    stations = trajectory.decode_by_layer(moons.flow, layers.points[-1])
    torch.testing.assert_close(stations.flip(0), layers.points, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("base", [Normal(), Logistic()])
def test_layers_under_a_context_and_on_a_grid(base):
    flow = diffeo.RealNVP(2, layers=2, hidden=(8,), base=base, context=1, steps=[0.5, 0.0])
    x, context = torch.randn(20, 2).mul(4).round() / 2, torch.randn(20, 1)
    perturbed(flow.initialize(x, context))
    layers = trajectory.encode_by_layer(flow, x, context)
    torch.testing.assert_close(layers.points[-1], flow.encode(x, context))
    assert layers.names[0] == "middle of the cell"
    middle, entry = flow.dequantizer(x)
    z, log_det = flow.bijection(middle, flow.context_encoder(context)[0])
    torch.testing.assert_close(layers.log_prob, flow.base.log_prob(z) + log_det + entry)
    torch.testing.assert_close(
        trajectory.decode_by_layer(flow, z, context)[-1],
        flow.decode(z, context),
        atol=1e-4,
        rtol=1e-4,
    )


def test_images_have_no_such_layers(digits):
    with pytest.raises(ValueError, match="changes the shape"):
        trajectory.encode_by_layer(digits.flow, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_a_click_is_a_point(moons):
    plane = Plane(moons)
    (left, right), (low, high) = plane.window
    assert plane.at(0, 0) == pytest.approx((left, high), abs=1e-2)
    assert plane.at(1, 1) == pytest.approx((right, low), abs=1e-2)
    for outside in ((-0.1, 0.5), (0.5, 1.1), ("a", 0.5), (None, None), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="outside"):
            plane.at(*outside)
    with pytest.raises(ValueError, match="no point"):
        plane.pick(math.inf, 0.0)
    path = plane.pick(0.5, 0.25)
    total = float(moons.flow.log_prob(torch.tensor([[0.5, 0.25]])))
    assert f"{total:+.3f}".replace("-", "−") in plane.steps(path)
    assert plane.path(path).count("<circle") == 3 + 4
    assert plane.density(path).count('class="cross"') == 1


def test_the_film_ends_in_the_data(moons):
    plane = Plane(moons)
    film = plane.film(3)
    assert len(film["stations"]) == len(film["names"]) == len(film["labels"]) == 5
    z = moons.flow.noise(len(film["colours"]), torch.Generator().manual_seed(3))
    x = moons.flow.decode(z).detach()
    (left, right), (low, high) = plane.window
    last = torch.tensor(film["stations"][-1]).unflatten(0, (-1, 2))
    inside = (last.abs() < 8).all(1)
    torch.testing.assert_close(
        left + last[inside, 0] * (right - left), x[inside, 0], atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        high - last[inside, 1] * (high - low), x[inside, 1], atol=0.02, rtol=0
    )
    first = torch.tensor(film["stations"][0]).unflatten(0, (-1, 2))
    torch.testing.assert_close(first[:, 0] * 7 - 3.5, z[:, 0], atol=0.01, rtol=0)


# Who is let in


async def reads(scope, receive, send):
    """A page that reads its message, and says how long it was."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break  # and answers all the same, as FastAPI does
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def run_apart(coroutine):
    """Run it in a thread of its own: Playwright keeps an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def let_in(path, *pieces, slow=False, **headers):
    """The status, the headers and the body of what the guard lets through, and what it read."""
    guard = pytest.importorskip("diffeo.explorer.guard", reason="needs starlette")
    headers = {"host": "127.0.0.1:7860"} | headers
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    coming, answers, taken = list(pieces or (b"",)), [], []

    async def receive():
        if not coming:
            await asyncio.sleep(30)
        taken.append(coming.pop(0))
        more = bool(coming) or slow
        return {"type": "http.request", "body": taken[-1], "more_body": more}

    async def send(message):
        answers.append(message)

    run_apart(guard.Guard(reads)(scope, receive, send))
    start, *bodies = answers
    assert start["type"] == "http.response.start"
    assert all(answer["type"] == "http.response.body" for answer in bodies)
    body = b"".join(answer["body"] for answer in bodies)
    return start["status"], dict(start["headers"]), body, sum(map(len, taken))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/gradio_api/run/predict", 200),
        ("/assets/index.js", 200),
        ("/assets/../secret", 404),
        ("/assets/..\\secret", 404),
        ("/static/a\0b", 404),
        ("/gradio_api/file=/etc/passwd", 404),
        ("/file=/etc/passwd", 404),
        ("/gradio_api/upload", 404),
        ("/gradio_api/proxy=http://example.org", 404),
        ("/gradio_api/queue/join/more", 404),
        ("//gradio_api/file=/etc/passwd", 404),
        ("/svelte/x.js", 404),
    ],
)
def test_only_what_the_page_asks_for_is_there(path, status):
    found, headers, _, _ = let_in(path)
    assert found == status
    if status == 200:
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://127.0.0.1:7860", 200),  # what stands before it may speak TLS
        ("http://127.0.0.1:7861", 403),
        ("http://localhost:7860", 403),
        ("http://evil.example", 403),
        ("http://127.0.0.1:7860.evil.example", 403),
        ("http://127.0.0.1:7860@evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_no_other_sites_page_may_ask(origin, status):
    assert let_in("/gradio_api/run/predict", b"{}", origin=origin)[0] == status


@pytest.mark.parametrize("header", ["x-forwarded-host", "sec-fetch-site"])
def test_behind_a_proxy_the_page_itself_may_ask(header):
    origin = "https://example.org"
    value = "example.org" if header == "x-forwarded-host" else "same-origin"
    assert let_in("/gradio_api/run/predict", b"{}", origin=origin, **{header: value})[0] == 200
    value = "other.example" if header == "x-forwarded-host" else "cross-site"
    assert let_in("/gradio_api/run/predict", b"{}", origin=origin, **{header: value})[0] == 403


def test_a_message_that_says_it_is_huge_is_not_read():
    status, headers, _, taken = let_in("/gradio_api/run/predict", b"A", content_length=f"{2**27}")
    assert (status, taken) == (413, 0)
    assert headers[b"connection"] == b"close"
    assert let_in("/gradio_api/run/predict", b"A", content_length="-1")[0] == 413


def test_a_message_that_does_not_say_is_read_up_to_the_limit():
    pieces = [bytes(2**24)] * 6
    status, _, _, taken = let_in("/gradio_api/run/predict", *pieces)
    assert (status, taken) == (413, 4 * 2**24)
    status, _, body, _ = let_in("/gradio_api/run/predict", *pieces[:3])
    assert (status, body) == (200, str(3 * 2**24).encode())


def test_a_message_that_comes_to_a_halt_is_answered(monkeypatch):
    guard = pytest.importorskip("diffeo.explorer.guard", reason="needs starlette")
    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    status, headers, _, taken = let_in("/gradio_api/queue/join", b"{", slow=True)
    assert (status, taken) == (408, 1)
    assert headers[b"connection"] == b"close"


def test_a_websocket_is_closed():
    guard = pytest.importorskip("diffeo.explorer.guard", reason="needs starlette")
    answers = []

    async def send(message):
        answers.append(message["type"])

    run_apart(guard.Guard(reads)({"type": "websocket", "path": "/"}, None, send))
    assert answers == ["websocket.close"]


def test_of_each_visitor_only_what_the_controls_need_is_remembered(labels):
    pytest.importorskip("gradio", reason="needs gradio")
    import httpx

    from diffeo.explorer.serving import serve

    page = serve(labels, wait=False)
    parts = {part["id"]: part["props"].get("elem_id") for part in page.config["components"]}
    calls = {
        (parts[part], event): function["id"]
        for function in page.config["dependencies"]
        for part, event in function["targets"]
        if part in parts
    }
    uploaded, again = calls["own", "upload"], calls["reset", "click"]
    ramp = drawn(8, 8)
    brought = {"one": ramp, "two": drawn(8, 8, mode="1")}
    shown = {}
    try:
        with httpx.Client(base_url=page.local_url, timeout=60) as client:

            def ask(session, function, data, event=None):
                message = {"fn_index": function, "session_hash": session, "data": data}
                answer = client.post(
                    "/gradio_api/run/predict", json=message | {"event_data": event}
                )
                return answer.json()["data"]

            for name, content in brought.items():
                files = {"files": message((f"{name}.png", content))}
                shown[name] = ask(name, uploaded, [], files)[1]
            assert shown["one"] != shown["two"]
            for name in brought:
                _, _, after, *_ = ask(name, again, [None, -1])
                source = re.compile('<img src="(data:image/png[^"]+)')
                assert source.search(after)[1] == source.search(shown[name])[1]
                memory = page.app.state_holder[name]
                assert not memory.config_values
                assert [slot.caption.split(",")[0] for slot in memory.state_data.values()] == [
                    f"{name}.png"
                ]
    finally:
        page.close(verbose=False)


# The command


def test_a_run_that_is_none_is_refused(capsys, tmp_path):
    refused(["explore", str(tmp_path / "nothing"), "--no-browser"], capsys, "nothing")


def test_without_gradio_it_says_what_to_install(digits, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    command = ["explore", str(digits.run.folder), "--no-browser"]
    refused(command, capsys, 'pip install "diffeo[explorer]"')


def test_hosts():
    pytest.importorskip("gradio", reason="needs gradio")
    from diffeo.explorer import serving

    assert all(map(serving.is_loopback, ("127.0.0.1", "localhost", "::1", "127.1.2.3")))
    assert not any(map(serving.is_loopback, ("0.0.0.0", "192.168.0.2", "example.org", "")))
    with pytest.raises(ValueError, match="cannot be listened on"):
        serving._free_port("127.0.0.1", 99_999)
    with pytest.raises(ValueError, match="the host is empty"):
        serving._free_port("", 7860)
    assert serving._free_port("127.0.0.1", 0) > 0  # one that the system chooses
