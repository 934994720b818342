"""The tabs of a model of images."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffeo import latent
from diffeo.data import ImageOptions, load_images

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect


def pixels(locator) -> torch.Tensor:
    """What an `<img>` shows, as grey pixels."""
    source = locator.get_attribute("src").split(",", 1)[1]
    return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(source)))))


def grid(page, selector="#samples") -> torch.Tensor:
    images = page.locator(f"{selector} .image-grid img")
    return torch.stack([pixels(images.nth(i)) for i in range(images.count())])


def changes(page, selector, act) -> None:
    """Do something, and wait until the first image there is another."""
    image = page.locator(f"{selector} img").first
    before = image.get_attribute("src")
    act()
    expect(image).not_to_have_attribute("src", before)


def drawn(kind="PNG", size=20, **options) -> bytes:
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    Image.fromarray(np.tile(ramp, (size, 1))).save(buffer, kind, **options)
    return buffer.getvalue()


def bring(page, selector, name, content) -> None:
    page.locator(f"{selector} input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def test_sample_is_what_the_command_draws(visit, runs):
    page = visit("digits")
    run = runs["digits"]
    assert torch.equal(grid(page), run.sample(16, temperature=0.8, seed=0)[:, 0])
    page.locator("#temperature input[type=range]").focus()
    changes(page, "#samples", lambda: page.keyboard.press("ArrowLeft"))
    assert torch.equal(grid(page), run.sample(16, temperature=0.75, seed=0)[:, 0])
    changes(page, "#samples", lambda: page.locator("#redraw").click())
    assert torch.equal(grid(page), run.sample(16, temperature=0.75, seed=1)[:, 0])
    page.get_by_label("3 × 3").check()
    expect(page.locator("#samples img")).to_have_count(9)


def test_noise_of_a_level_is_held(visit, runs):
    page = visit("digits")
    page.get_by_label("level 2, coarsest").check()
    changes(page, "#samples", lambda: page.locator("#redraw").click())
    flow = runs["digits"].flow
    z, new = (flow.noise(16, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    z[:, :32] = new[:, :32]
    with torch.no_grad():
        assert torch.equal(grid(page), flow.decode(0.8 * z)[:, 0])


def test_sample_of_a_label(visit, runs):
    page = visit("labels")
    changes(page, "#samples", lambda: page.get_by_label("3", exact=True).check())
    context = torch.eye(10)[3:4]
    expected = runs["labels"].sample(16, context=context, temperature=0.8, seed=0)
    assert torch.equal(grid(page), expected[:, 0])
    expect(page.locator("#samples img").first).to_have_attribute("alt", "a sample: label 3")


def test_interpolate_between_two(visit, runs):
    page = visit("digits", "Interpolate")
    page.locator("#strip img").first.wait_for()
    x = load_images(ImageOptions("digits")).test.all(2)
    assert torch.equal(pixels(page.locator("#slot-A img")), x[0, 0])
    assert torch.equal(pixels(page.locator("#slot-B img")), x[1, 0])
    path = latent.interpolate(runs["digits"].flow, x[:1], x[1:], 9, "spherical")[0, :, 0]
    assert torch.equal(grid(page, "#strip"), path)
    assert torch.equal(pixels(page.locator("#mixed img")), path[4])
    slider = page.locator("#across input[type=range]")
    slider.focus()
    changes(page, "#mixed", lambda: page.keyboard.press("Home"))
    assert torch.equal(pixels(page.locator("#mixed img")), x[0, 0])  # bit for bit
    changes(page, "#slot-A", lambda: page.locator("#another-A").click())
    with page.expect_download() as download:
        page.locator("#make-gif").click()
        page.get_by_role("link", name="Download").click()
    with Image.open(download.value.path()) as film:
        assert film.format == "GIF"
        assert film.n_frames > 20


def test_interpolate_between_four_with_the_pad(visit, runs):
    page = visit("digits", "Interpolate")
    page.locator("#strip img").first.wait_for()
    page.get_by_label("four images").check()
    expect(page.locator("#slot-D img")).to_be_visible()
    pad = page.locator("#pad .pad")
    box = pad.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"], steps=4)
    page.mouse.up()
    across = page.locator("#across input[type=range]")
    expect(across).to_have_value("100")
    expect(page.locator("#down input[type=range]")).to_have_value("100")
    last = pixels(page.locator("#slot-D img"))
    page.wait_for_function(
        "document.querySelector('#mixed figcaption').innerText.includes('100 % down')"
    )
    assert torch.equal(pixels(page.locator("#mixed img")), last)
    pad.focus()
    changes(page, "#mixed", lambda: [page.keyboard.press("Shift+ArrowUp") for _ in range(5)])
    expect(page.locator("#down input[type=range]")).to_have_value("50")
    x = load_images(ImageOptions("digits")).test.all(4)
    middle = latent.between_four(runs["digits"].flow, x, 3, 3, "spherical")[1, 2]
    assert torch.equal(pixels(page.locator("#mixed img")), middle[0])


def test_edit_along_directions_and_reset(visit, runs):
    page = visit("digits", "Edit")
    page.locator("#after img").wait_for()
    before = pixels(page.locator("#before img"))
    assert torch.equal(pixels(page.locator("#after img")), before)
    slider = page.get_by_label("range slider for Label: 3")
    slider.focus()
    changes(page, "#after", lambda: [page.keyboard.press("PageUp") for _ in range(8)])
    expect(page.locator("#after figcaption")).to_contain_text("grey levels apart")
    page.locator("#reset").click()
    expect(page.locator("#after figcaption")).to_contain_text("bit for bit the same")
    assert torch.equal(pixels(page.locator("#after img")), before)
    expect(slider).to_have_value("0")


def test_edit_by_condition_of_ones_own_image(visit, runs):
    page = visit("labels", "Edit")
    page.locator("#after img").wait_for()
    content = drawn()
    changes(page, "#before", lambda: bring(page, "#own", "ramp.png", content))
    expect(page.locator("#before figcaption")).to_contain_text(
        "ramp.png, scaled to 8 x 8 pixels, taken for label"
    )
    flow, x = runs["labels"].flow, pixels(page.locator("#before img"))[None, None]
    guess = int(page.locator("#before figcaption").inner_text()[-1])
    other = (guess + 1) % 10
    changes(page, "#after", lambda: page.get_by_role("radio", name=str(other), exact=True).check())
    contexts = torch.eye(10)[[guess]], torch.eye(10)[[other]]
    expected = latent.recondition(flow, x, *contexts)
    assert torch.equal(pixels(page.locator("#after img")), expected[0, 0])


def test_inspect_ones_own_images(visit, runs):
    page = visit("digits", "Inspect")
    page.locator("#inspect-numbers tbody tr").first.wait_for()
    expect(page.locator("#inspect-numbers tbody tr")).to_have_count(8)
    expect(page.locator("#inspect-levels svg")).to_have_count(2)
    page.locator("#inspect-own input").set_input_files(
        [
            {"name": "ramp.png", "mimeType": "image/png", "buffer": drawn()},
            {"name": "notes.png", "mimeType": "image/png", "buffer": b"no image at all"},
            {"name": "film.gif", "mimeType": "image/gif", "buffer": film()},
        ]
    )
    rows = page.locator("#inspect-numbers tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("ramp.png")
    expect(rows.nth(1)).to_contain_text("film.gif, the first frame")
    expect(page.get_by_role("alert")).to_have_text(
        "notes.png is not an image: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file."
    )
    x = pixels(rows.nth(0).locator("img"))[None, None]
    bits = runs["digits"].flow.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    # The second image draws the noise after the first, as one batch of both does.
    both = torch.cat([x, pixels(rows.nth(1).locator("img"))[None, None]])
    bits = runs["digits"].flow.bits_per_dim(both, generator=torch.Generator().manual_seed(0))
    for row, value in zip((0, 1), bits.tolist(), strict=True):
        expect(rows.nth(row)).to_contain_text(f"{value:.3f}")


def film() -> bytes:
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 120, 240)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.png", b"plain text", "is not an image: choose a PNG"),
        ("half.png", drawn(size=400)[:500], "is damaged or incomplete"),
        ("wide.png", drawn(size=8)[:16] + (60_000).to_bytes(4) * 2 + drawn(size=8)[24:], None),
        ("empty.png", b"", "is not an image"),
        ("huge.png", bytes(11 * 2**20), "is larger than 10 MB"),
    ],
)
def test_a_wrong_upload_is_answered_with_a_sentence(visit, name, content, words):
    page = visit("digits", "Edit")
    page.locator("#after img").wait_for()
    bring(page, "#own", name, content)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(name)
    if words:
        expect(alert).to_contain_text(words)
    expect(page.locator("#after figcaption")).to_contain_text("bit for bit the same")
    # And the page goes on: the sentence is gone with the next image that can be read.
    bring(page, "#own", "ramp.png", drawn())
    expect(page.locator("#before figcaption")).to_contain_text("ramp.png")
    expect(alert).to_have_count(0)


def test_a_dropped_file_is_taken(visit):
    page = visit("digits", "Inspect")
    page.locator("#inspect-numbers tbody tr").first.wait_for()
    content = base64.b64encode(drawn()).decode()
    page.evaluate(
        """content => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
            document.querySelector("#inspect-own .drop").dispatchEvent(
                new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }""",
        content,
    )
    expect(page.locator("#inspect-numbers tbody tr")).to_have_count(1)
    expect(page.locator("#inspect-numbers")).to_contain_text("dropped.png")


def test_without_its_data_a_model_shows_its_own_samples(visit, runs):
    page = visit("bare", "Interpolate")
    expect(page.locator(".page-head")).to_contain_text("data are not available")
    expect(page.locator("#slot-A figcaption")).to_contain_text("the model's sample 0")
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator("#inspect-place svg")).to_contain_text("samples of the model itself")
