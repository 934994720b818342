"""Whatever is sent to the page, it answers with a result or one sentence, and never fails."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import time
from collections import defaultdict
from html import unescape
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest
import torch
from commands import refused
from explored import drawn, make_subject, message
from PIL import Image
from proxy import proxy

from diffeo.explorer import inspecting, sampling, uploads
from diffeo.explorer.plane import Plane
from diffeo.explorer.subject import Subject
from diffeo.run import Run

pytest.importorskip("gradio", reason="needs gradio")
import httpx

from diffeo.explorer.events import check_inputs

SECRET = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
ODD = (None, "", "abc", -5, 99, 99_999_999_999, 10**400, 1e300, 0.55, float("nan"), float("inf"))
ODD += (True, [], {}, ["a"], [99], SECRET, "x" * 1000)
TROUBLE = re.compile(r'<p class="trouble" role="alert">(.*?)</p>')
SENTENCE = re.compile(r"[^.<>]+(?:[.][^ ][^.<>]*)*[.]")  # points in numbers are no ends


class Client:
    """A served page, asked as its own scripts ask."""

    def __init__(self, page, address: str = "") -> None:
        self.blocks = page
        self.client = httpx.Client(base_url=address or page.local_url, timeout=60)
        config = self.client.get("/config").json()
        self.parts = {part["id"]: part for part in config["components"]}
        self.functions = {
            (self.name(part), event): function
            for function in config["dependencies"]
            if function["backend_fn"]
            for part, event in function["targets"]
        }

    def name(self, part: int | None) -> str:
        props = self.parts.get(part, {}).get("props", {})
        return props.get("elem_id") or props.get("label") or ""

    def first(self, function: dict) -> list:
        """The values of the controls when the page is opened."""
        return [self.parts[part]["props"].get("value") for part in function["inputs"]]

    def post(self, path: str, body: object) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body)
        head = {"content-type": "application/json"}
        return self.client.post(f"/gradio_api/{path}", content=content, headers=head)

    def ask(self, function: dict, data: list, event: object = None, visitor="visitor") -> list:
        """The outputs of an event."""
        call = {"fn_index": function["id"], "session_hash": visitor, "data": data}
        call["event_data"] = event
        if not function["queue"]:
            answer = self.post("run/predict", call)
            assert answer.status_code == 200, answer.text
            return answer.json()["data"]
        assert self.post("queue/join", call).status_code == 200
        where = {"session_hash": visitor}
        with self.client.stream("GET", "/gradio_api/queue/data", params=where) as events:
            for line in events.iter_lines():
                if '"process_completed"' in line:
                    done = json.loads(line.removeprefix("data: "))
                    assert done["success"], line
                    return done["output"]["data"]
        raise AssertionError("no answer")

    def trouble(self, *call, **options) -> str:
        """The sentence in the message of an event's tab; "" if all went well."""
        last = self.ask(*call, **options)[-1]
        assert isinstance(last, str), last
        found = TROUBLE.fullmatch(last)
        assert found or not last, last
        return unescape(found[1]) if found else ""


@contextlib.contextmanager
def served(subject: Subject, **options):
    from diffeo.explorer.serving import serve

    page = serve(subject, wait=False, **options)
    try:
        yield Client(page)
    finally:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    with (
        served(make_subject("labels", folder)) as labels,
        served(make_subject("digits", folder)) as digits,
        served(make_subject("moons", folder)) as moons,
        served(make_subject("visits", folder)) as visits,
    ):
        yield {"labels": labels, "digits": digits, "moons": moons, "visits": visits}


KINDS = ("labels", "digits", "moons", "visits")


@pytest.mark.parametrize("kind", KINDS)
def test_each_event_has_the_message_of_its_tab_as_its_last_output(pages, kind):
    page = pages[kind]
    assert len(page.functions) > 8
    for name, function in page.functions.items():
        last = page.parts[function["outputs"][-1]]["props"]
        assert last.get("elem_classes") == ["message"], name


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_of_any_control_is_taken_or_refused_in_one_sentence(pages, kind):
    sentences = set()
    for function in pages[kind].blocks.fns.values():
        first, remembered = [part.value for part in function.inputs], defaultdict(object)
        for place, value in itertools.product(range(len(first)), ODD):
            data = [*first[:place], value, *first[place + 1 :]]
            with contextlib.suppress(ValueError):
                check_inputs(function.inputs, data, remembered)
                continue
            with pytest.raises(ValueError, match=r"[.]$") as caught:
                check_inputs(function.inputs, data, remembered)
            sentences.add(str(caught.value))
    assert len(sentences) > 30
    for sentence in sentences:
        assert SENTENCE.fullmatch(sentence), sentence


@pytest.mark.parametrize("kind", KINDS)
def test_odd_values_and_lengths_are_answered_with_a_sentence(pages, kind, capfd):
    page, asked = pages[kind], set()
    for name, function in page.functions.items():
        first = page.first(function)
        if function["queue"] or not first:
            continue
        trouble = page.trouble(function, first[:-1])
        assert trouble == "the page and the model do not fit each other: load the page again."
        for place, part in enumerate(function["inputs"]):
            if part in asked or page.parts[part]["type"] in ("state", "html"):
                continue
            asked.add(part)
            for value in (SECRET, float("nan"), None):
                data = [*first[:place], value, *first[place + 1 :]]
                trouble = page.trouble(function, data)
                assert SENTENCE.fullmatch(trouble), (name, trouble)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("control", "value", "sentence"),
    [
        ("temperature", 99, "Temperature is 99: write a number from 0 to 1.5."),
        ("temperature", None, "Temperature is empty: write a number from 0 to 1.5."),
        ("temperature", -0.1, "Temperature is −0.1: write a number from 0 to 1.5."),
        ("seed", -5, "Seed is −5: write a whole number from 0 to 2147483647."),
        ("seed", 99_999_999_999, "Seed is 99999999999: write a whole number from 0 to 2147483647."),
        ("seed", 0.5, "Seed is 0.5: write a whole number from 0 to 2147483647."),
        ("seed", "two", "Seed is 'two': write a whole number from 0 to 2147483647."),
        ("grid", 5, "Grid is 5: choose from 1 × 1, 2 × 2, 3 × 3, 4 × 4, 6 × 6, 8 × 8."),
        ("Label", "11", "Label is '11': choose from any, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(pages, control, value, sentence):
    page = pages["labels"]
    function = page.functions["redraw", "click"]
    names = [page.name(part) for part in function["inputs"]]
    data = page.first(function)
    data[names.index(control)] = value
    answer = page.ask(function, data)
    assert unescape(TROUBLE.fullmatch(answer[-1])[1]) == sentence
    assert not re.search("<|data:|value", str(answer[:-1]))  # the rest stays as it is


def test_the_last_seed_is_followed_by_the_first(pages):
    page = pages["digits"]
    function = page.functions["redraw", "click"]
    data = page.first(function)
    data[[page.name(part) for part in function["inputs"]].index("seed")] = 2**31 - 1
    *_, seed, trouble = page.ask(function, data)
    assert (seed, trouble) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_any_event_may_come_first_and_with_anything_along(pages, kind, capfd):
    page = pages[kind]
    odd = (None, 5, [], {"files": 5}, {"files": [5]}, {"files": [{"name": 5, "data": 5}]})
    odd += ({"files": message(("a.png", b"no image"))}, {"files": [SECRET]})
    for number, (name, function) in enumerate(page.functions.items()):
        for event in odd if name[1] == "upload" else (None,):
            visitor = f"{kind}-{number}"
            trouble = page.trouble(function, page.first(function), event, visitor=visitor)
            assert not trouble or SENTENCE.fullmatch(trouble), (name, trouble)
            if name[1] == "upload":
                assert trouble, name
    assert "Traceback" not in capfd.readouterr().err


def test_a_button_before_the_first_images_says_what_to_do(pages):
    page = pages["digits"]
    for control in ("another-A", "reset"):
        function = page.functions[control, "click"]
        assert page.trouble(function, page.first(function), visitor="early") == (
            "the images of this tab are not here: wait for them, or load the page again."
        )


@pytest.mark.parametrize("place", [{}, None, 5, {"across": "a", "down": 1}, {"x": True, "y": -1}])
@pytest.mark.parametrize(("kind", "part"), [("moons", "density"), ("digits", "pad")])
def test_a_place_outside_is_a_sentence(pages, kind, part, place):
    page = pages[kind]
    tab = page.functions["Interpolate", "select"] if kind == "digits" else None
    if tab:
        page.ask(tab, page.first(tab), visitor="pad")
    function = next(f for (name, _), f in page.functions.items() if name == part)
    data = [
        place if page.name(p) == part else v
        for p, v in zip(function["inputs"], page.first(function), strict=True)
    ]
    assert "point inside of it" in page.trouble(function, data, visitor="pad")


@pytest.mark.parametrize("path", ["run/predict", "queue/join"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"5",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        {"data": 5},
        {"data": []},
        {"data": [], "fn_index": "a", "session_hash": "s"},
        {"data": [], "fn_index": 99_999, "session_hash": "s"},
        {"data": [], "fn_index": -1, "session_hash": "s"},
        {"data": [], "fn_index": 10**30, "session_hash": "s"},
        {"data": [], "fn_index": 1, "session_hash": 5},
    ],
)
def test_a_damaged_message_is_refused_in_a_sentence(pages, path, body, capfd):
    answer = pages["digits"].post(path, body)
    assert 400 <= answer.status_code < 500
    text = answer.text if answer.text[0] != "{" else answer.json()["detail"]
    assert re.fullmatch(r"[A-Z][^{}\[\]<>]+", text), text
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/gradio_api/queue/data", {}),
        ("/gradio_api/queue/data?session_hash=nobody", {}),
        ("/assets/none.js", {}),
        ("/static/", {}),
        ("/gradio_api/heartbeat/", {}),
        ("/gradio_api/run/predict", {}),
        ("/config", {"origin": "http://["}),
        ("/config", {"host": "["}),
    ],
)
def test_an_odd_request_does_not_reach_the_terminal(pages, path, headers, capfd):
    answer = pages["digits"].client.get(path, headers=headers)
    assert answer.status_code < 500
    time.sleep(0.1)  # the server writes after it has answered
    assert "Traceback" not in capfd.readouterr().err


# Files


def encoded(pixels: np.ndarray, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (drawn(9, 9, mode="RGBA"), ""),
        (encoded(np.arange(81, dtype=np.uint16).reshape(9, 9) * 800), ""),
        (encoded(np.zeros((1, 1), np.uint8)), ""),
        (
            encoded(np.zeros((2, 20_000), np.uint8)),
            "odd.png is too large to be opened safely: scale it down below 10,000 pixels a side.",
        ),
        (
            b"no image",
            "odd.png is not an image: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file.",
        ),
        (
            drawn(400, 400)[:600],
            "odd.png is damaged or incomplete: save it anew, or choose another.",
        ),
    ],
)
def test_an_odd_image_is_taken_or_named(pages, content, sentence):
    page = pages["digits"]
    for control in ("own", "own-A", "inspect-own"):
        tab = "Edit" if control == "own" else "Interpolate"
        if control != "inspect-own":
            begin = page.functions[tab, "select"]
            page.ask(begin, page.first(begin), visitor=control)
        function = page.functions[control, "upload"]
        files = {"files": message(("odd.png", content))}
        found = page.trouble(function, page.first(function), files, visitor=control)
        assert found == sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x,y\n1,two\n", "column 'y' is not numeric, row 1 holds 'two'"),
        (b"x,y\n1,nan\n", "column 'y' has 1 row without a finite"),
        (b"x,y\n1e300,1\n", "column 'x' has 1 row without a finite"),
        (b"x,y\n1,2,3\n", "names 2 columns and its first row has 3 values"),
        (b"x\n1\n", "lacks the column 'y'"),
        (b"", "odd.csv"),
        (b"x,y\n1e38,-1e38\n1,2\n", ""),
    ],
)
def test_an_odd_table_is_taken_or_named(pages, content, words):
    page = pages["moons"]
    function = page.functions["inspect-own", "upload"]
    found = page.trouble(function, [], {"files": message(("odd.csv", content))}, visitor="table")
    assert words in found
    assert bool(found) is bool(words)
    assert not found or (found.startswith("odd.csv") and found.endswith("."))


def test_rows_without_a_density_are_counted_and_left_out_of_the_mean(tmp_path):
    moons = make_subject("moons", tmp_path)
    x, _ = uploads.read_rows(moons, uploads.Upload("a.csv", b"x,y\n1e38,-1e38\n1,2\n"))
    found = inspecting.find(moons, x, ["row 1", "row 2"])
    mean = f"{float(found.nats[1]):.3f}".replace("-", "−")
    line = inspecting.summary(moons, found, "a.csv")
    assert line == f"a.csv, 2 rows: 1 with a density of zero or none; mean {mean} nats."
    assert "nan" not in inspecting.place(moons, found)


def test_of_a_long_table_the_page_says_that_the_first_rows_are_shown(pages, monkeypatch):
    monkeypatch.setattr(uploads, "ROWS", 3)
    page = pages["moons"]
    function = page.functions["inspect-own", "upload"]
    files = {"files": message(("long.csv", b"x,y\n" + b"1,2\n" * 5))}
    head, *_ = page.ask(function, [], files, visitor="long")
    assert "the first rows of long.csv, 3 rows" in head


# What samples and points may be


def test_samples_that_are_not_finite_are_counted_and_not_drawn(tmp_path, monkeypatch):
    moons = make_subject("moons", tmp_path)
    x = torch.randn(10, 2)
    x[3, 1], x[7, 0] = torch.nan, torch.inf
    shown, context, amiss = sampling.finite_only(moons, x, None, 1.0)
    assert torch.equal(shown, x[[0, 1, 2, 4, 5, 6, 8, 9]])
    assert context is None
    assert amiss == "2 of 10 samples are not finite and are not drawn."
    with pytest.raises(ValueError, match=r"is finite at temperature 1[.]5: choose a lower"):
        sampling.finite_only(moons, x[[3, 7]], None, 1.5)


def test_samples_less_likely_than_all_data_are_counted_above_temperature_1(tmp_path, monkeypatch):
    digits = make_subject("digits", tmp_path)
    x = digits.data.val.all()
    # As if the half that the model finds likelier were all that is known.
    upper = dataclasses.replace(digits.reference, nats=digits.reference.nats[12:])
    monkeypatch.setitem(vars(digits), "_reference", upper)
    _, _, amiss = sampling.finite_only(digits, x, None, 1.2)
    assert amiss == (
        "At this temperature 12 of 24 samples are less likely than all 24 held-out images."
    )
    assert sampling.finite_only(digits, x, None, 1.0)[2] == ""


def test_the_page_says_how_many_samples_lie_outside_of_the_plane(pages):
    page = pages["moons"]
    function = page.functions["temperature", "input"]
    data = page.first(function)
    data[[page.name(part) for part in function["inputs"]].index("temperature")] = 1.5
    _, shown, _, trouble = page.ask(function, data)
    assert trouble == ""
    outside = re.search(r"([\d,]+) of 1,000 samples lie outside of the plane", shown)
    assert shown.count("<circle") and int(outside[1]) == 1000 - shown.split('class="sample"')[
        1
    ].count("<circle")


def test_a_point_without_a_density_is_a_sentence(tmp_path):
    plane = Plane(make_subject("moons", tmp_path))
    with pytest.raises(ValueError, match=r"\(1e\+30, 1\) is too far from the data"):
        plane.pick(1e30, 1.0)
    assert plane.pick(9.0, 1.0).log_prob.isfinite().all()


# Compared with


def test_the_page_ranks_against_the_held_out_data_that_diffeo_score_uses(tmp_path):
    digits = make_subject("digits", tmp_path)
    from diffeo.evaluation.scores import Reference as Stored

    assert digits.reference.source == "24 held-out images"
    Stored.learn(digits.flow, digits.data).attach(digits.flow)
    digits.flow.save_pretrained(tmp_path / "digits/model")
    known = Subject(Run(tmp_path / "digits"))
    usual = Stored.of(known.flow)
    assert known.data is not None
    assert known.reference.source == "24 held-out images"
    assert known.reference.usual == usual
    median = usual.quantiles[50]
    assert known.reference.share_below(median) == pytest.approx(0.5, abs=0.01)
    found = inspecting.find(known, known.data.test.all(3), ["a", "b", "c"])
    share = inspecting.percent(found.shares[0])
    line = inspecting.comparison(known, found)
    assert line == f"The first is more likely than {share} of the 24 held-out images."
    found = inspecting.find(known, known.data.test.all(1), ["a"])
    line = inspecting.comparison(known, found)
    assert line == f"It is more likely than {share} of the 24 held-out images."


# Behind a proxy


@pytest.mark.parametrize("strips", [True, False], ids=["prefix removed", "prefix passed on"])
@pytest.mark.parametrize("keeps_host", [True, False], ids=["host passed on", "own host"])
def test_behind_a_proxy_all_that_the_page_asks_for_is_under_its_prefix(
    tmp_path, strips, keeps_host
):
    subject = make_subject("moons", tmp_path)
    with (
        served(subject, root_path="/models/moons") as direct,
        proxy(
            direct.blocks.local_url.rstrip("/"),
            "/models/moons",
            strips=strips,
            keeps_host=keeps_host,
        ) as address,
    ):
        for start in (address, f"{address}/"):
            html = httpx.get(start).text
            base = re.search('<base href="([^"]*)"', html)[1]
            assert base == "/models/moons/"
            links = re.findall('<(?:link|script)[^>]* (?:href|src)="([^"]*)"', html)
            assert len(links) > 2
            for link in links:
                found = urljoin(urljoin(start, base), link)
                assert found.startswith(f"{address}/"), link
                assert httpx.get(found).status_code == 200, link
        page = Client(direct.blocks, address)
        assert urlsplit(page.client.get("/config").json()["root"]).path == "/models/moons"
        for origin in ({}, {"origin": address.removesuffix("/models/moons")}):
            page.client.headers.update(origin)
            if origin and not keeps_host:
                page.client.headers["sec-fetch-site"] = "same-origin"
            begin = page.functions["redraw", "click"]
            assert "<circle" in page.ask(begin, page.first(begin))[1]
        flow = page.functions["Flow", "select"]
        assert flow["queue"]
        assert page.ask(flow, page.first(flow))[-1] == ""
        # And nothing else is there because of the prefix.
        for path in ("/gradio_api/upload", "/secret", "x/config"):
            assert httpx.get(f"{address}{path}").status_code in (404, 405), path


def test_the_public_address_is_known_by_its_name_and_no_other_is(tmp_path):
    subject = make_subject("moons", tmp_path)
    with served(subject, root_path="https://example.org/flows/") as page:
        head = {"host": "example.org", "origin": "https://example.org"}
        answer = page.client.get("/config", headers=head)
        assert (answer.status_code, answer.json()["root"]) == (200, "https://example.org/flows")
        # A proxy that asks by a name of its own.
        own = {"host": "127.0.0.1:7860", "origin": "https://example.org"}
        assert page.client.get("/config", headers=own).status_code == 200
        foreign = {"host": "evil.example"}
        answer = page.client.get("/config", headers=foreign)
        assert answer.status_code == 400
        assert "--root-path https://" in answer.text
        foreign = {"host": "example.org", "origin": "https://evil.example"}
        assert page.client.get("/config", headers=foreign).status_code == 403


@pytest.mark.parametrize("root", ["models", "/a b", "ftp://x/y", "/a?b", "/../a", '/"', "//evil/x"])
def test_a_root_path_that_is_none_is_refused(tmp_path, capsys, root):
    make_subject("moons", tmp_path)
    command = ["explore", str(tmp_path / "moons"), "--no-browser", "--root-path", root]
    refused(command, capsys, "the root path is")
