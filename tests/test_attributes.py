"""Attributes of images: read from every kind of source, encoded, and used as context."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_images import encoded, folder_of, noise, numbers, refusal, table_of

from diffeo.context import Category, ContextSpec, Number
from diffeo.data import (
    DataOptions,
    ImageOptions,
    Images,
    Table,
    holds_images,
    load_data,
    load_gallery,
    load_images,
)
from diffeo.data.images import cache
from diffeo.data.images.attributes import (
    MOST_CLASSES,
    MOST_TEXTS,
    Columns,
    choose,
    context_columns,
    encode,
    encode_labels,
)

NAN = float("nan")


def load(source: Path | str, **options) -> Images:
    return load_images(ImageOptions(str(source), cache="cache", **options))


def columns_of(images: Images) -> dict[str, dict[int, float]]:
    """For each attribute, its value by the number that a image's first pixel holds."""
    found: dict[str, dict[int, float]] = {name: {} for name in images.attribute_names}
    for split in ("train", "val", "test"):
        attributes = images.split(split).attributes
        assert attributes.dtype == torch.float32
        assert attributes.shape == (len(images.split(split)), len(found))
        for number, row in zip(numbers(images, split), attributes.tolist(), strict=True):
            for name, value in zip(found, row, strict=True):
                found[name][number] = value
    return found


def assert_columns(images: Images, expected: dict[str, list[float]]) -> None:
    """Whether the attributes are these, in this order, of images 0, 1, ..."""
    found = columns_of(images)
    assert images.attribute_names == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal([found[name][i] for i in range(len(values))], values, name)
        assert len(found[name]) == len(values)


# Encoding


def collected(**columns: list) -> dict[str, list[float]]:
    return by_name(encode(pd.DataFrame(columns)))


def by_name(columns: Columns) -> dict[str, list[float]]:
    assert all(values.dtype == np.float32 for values in columns.values())
    return {
        name: values[:, i].tolist()
        for variable, values in columns.items()
        for i, name in enumerate(variable.columns)
    }


def same(found: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))
    return True


def test_numbers_are_themselves_and_texts_a_column_for_each_value():
    assert same(
        collected(a=[1.5, -1.0, 0.0], b=["y", "x", "y"]),
        {"a": [1.5, -1, 0], "b=x": [0, 1, 0], "b=y": [1, 0, 1]},
    )


def test_what_is_missing_is_nan_wherever_it_is_missing():
    assert same(
        collected(a=[None, 2.0, NAN, None], b=[NAN, "x", None, "y"]),
        {"a": [NAN, 2, NAN, NAN], "b=x": [NAN, 1, NAN, 0], "b=y": [NAN, 0, NAN, 1]},
    )
    assert same(collected(c=[float("inf"), -1e300, 3.0]), {"c": [NAN, NAN, 3]})


def test_what_says_nothing_is_left_out():
    many = [f"name {i}" for i in range(MOST_TEXTS + 1)]
    assert collected(a=many) == {} and len(collected(a=many[1:])) == MOST_TEXTS
    assert collected(a=[None, None], b=[NAN, None]) == {}
    assert collected(a=["x", 1.0, "x"]) == {} == collected(a=[1.0, None, "x"])


def test_labels_become_columns_unless_they_are_too_many_or_truth_values():
    values = np.array([1, -1, 0])
    found = encode_labels("l", [7, None, 3], values, ["3", "7"])
    assert [*found] == [Category("l", ("3", "7"))]
    assert same(by_name(found), {"l=3": [0, NAN, 1], "l=7": [1, NAN, 0]})
    found = encode_labels("l", [True, None, False], values, ["False", "True"])
    assert [*found] == [Number("l")] and same(by_name(found), {"l": [1, NAN, 0]})
    assert encode_labels("l", [None], np.array([-1]), []) == {}
    most = [str(i) for i in range(MOST_CLASSES + 1)]
    assert encode_labels("l", [0], np.array([0]), most) == {}
    (found,) = encode_labels("l", [0], np.array([0]), most[1:])
    assert len(found.columns) == MOST_CLASSES


# Sources


def with_columns(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def rich_table(count: int = 12) -> pa.Table:
    """Images with an attribute of each type, some of them missing, and with other columns."""
    i = range(count)
    return with_columns(
        table_of(count),
        smiling=pa.array([n % 2 == 0 for n in i]),
        celeb=pa.array([1 - 2 * (n % 2) for n in i], pa.int8()),
        age=pa.array([None if n == 3 else n / 2 for n in i], pa.float32()),
        half=pa.array(np.arange(count, dtype=np.float16)),
        hair=pa.array([None if n == 4 else ("red", "black")[n % 2] for n in i]),
        hat=pa.array(["top", "bowler"][n % 2] for n in i).dictionary_encode(),
        caption=pa.array([f"image {n}" for n in i] if count > MOST_TEXTS else ["same"] * count),
        day=pa.array([0] * count, pa.date32()),
        box=pa.array([[1, 2]] * count),
        nothing=pa.nulls(count),
        __index_level_0__=pa.array(i),
    )


def test_columns_of_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr("diffeo.data.images.parquet.ATTRIBUTE_ROWS", 5)
    count = MOST_TEXTS + 5
    pq.write_table(rich_table(count), tmp_path / "a.parquet")
    images = load(tmp_path / "a.parquet")
    i = np.arange(count)
    missing = np.where(i == 4, NAN, 0)
    assert_columns(
        images,
        {
            **{f"label={name}": i % 3 == n for n, name in enumerate(["ape", "bee", "cat"])},
            "label=dog": 0 * i,
            "id": i,
            "smiling": i % 2 == 0,
            "celeb": 1 - 2 * (i % 2),
            "age": np.where(i == 3, NAN, i / 2),
            "half": i,
            "hair=black": (i % 2 == 1) + missing,
            "hair=red": (i % 2 == 0) + missing,
            "hat=bowler": i % 2 == 1,
            "hat=top": i % 2 == 0,
        },
    )


def test_labels_of_parquet_go_by_the_name_of_their_column(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(9, label="kind", bare=True), path)
    i = np.arange(9)
    assert_columns(load(path), {"id": i, "kind": i % 3})
    expected = {f"kind={n}": i % 3 == n for n in range(3)} | {"id": i}
    assert_columns(load(path, label_column="kind"), expected)
    pq.write_table(with_columns(table_of(9, label=None), happy=pa.array(i % 2 == 0)), path)
    images = load(path, label_column="happy")
    assert_columns(images, {"happy": i % 2 == 0, "id": i})
    assert images.label_names == ["False", "True"]


def test_classes_other_than_the_label_have_their_names(tmp_path):
    table = with_columns(table_of(9), coarse=pa.array([0, 1, -1] * 3))
    features = json.loads(table.schema.metadata[b"huggingface"])
    features["info"]["features"]["coarse"] = {"_type": "ClassLabel", "names": ["pet", "game"]}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "a.parquet"
    )
    found = columns_of(load(tmp_path / "a.parquet", context=["id"]))
    assert list(found)[-2:] == ["coarse=game", "coarse=pet"]
    np.testing.assert_array_equal([found["coarse=pet"][i] for i in range(3)], [1, 0, NAN])


def test_parts_with_different_columns(tmp_path):
    pq.write_table(rich_table(12), tmp_path / "train.parquet")
    pq.write_table(table_of(3, 100), tmp_path / "test.parquet")
    images = load(tmp_path)
    place = images.attribute_names.index("smiling")
    assert images.test.attributes[:, place].isnan().all()
    assert not images.train.attributes[:, place].isnan().any()
    assert "3 of 15 lack 'smiling'" in refusal(lambda: load(tmp_path, context=["smiling"]))


def test_hub(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    rows = table_of(9).to_pydict() | {"fast": [n % 2 == 0 for n in range(9)], "box": [[1.0]] * 9}
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["ape", "bee", "cat"]),
            "fast": datasets.Value("bool"),
            "box": datasets.Sequence(datasets.Value("float32")),
        }
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict({"train": table})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: splits)
    i = np.arange(9)
    expected = {f"label={name}": i % 3 == n for n, name in enumerate(["ape", "bee", "cat"])}
    assert_columns(load("hf://a/b"), expected | {"id": i, "fast": i % 2 == 0})


def test_digits_and_arrays(tmp_path):
    digits = load("digits")
    assert digits.attribute_names == [f"label={i}" for i in range(10)]
    assert (digits.train.attributes.argmax(1) == digits.train.labels).all()
    assert (digits.train.attributes.sum(1) == 1).all()
    pixels = np.zeros((9, 4, 4), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(9) % 2 * 7)
    i = np.arange(9)
    assert_columns(load(tmp_path / "a.npz"), {"label=0": i % 2 == 0, "label=7": i % 2 == 1})
    np.savez(tmp_path / "b.npz", x=pixels, y=i % 2 == 1)
    assert_columns(load(tmp_path / "b.npz"), {"label": i % 2 == 1})
    np.save(tmp_path / "c.npy", pixels)
    images = load(tmp_path / "c.npy")
    assert images.attribute_names == [] and images.train.attributes is None
    assert not images.context and images.train.take(torch.arange(2))[1] is None


# Folders


def with_metadata(folder: Path, **columns: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(folder / "metadata.csv", index=False)
    return folder


def test_the_folders_of_a_folder_are_labels(tmp_path):
    for name, first in (("b", 0), ("a", 5)):
        folder_of(tmp_path / "f" / name, 5)
        for i in range(5):
            pixels = np.full((6, 8), first + i, np.uint8)
            (tmp_path / "f" / name / f"{i:02}.png").write_bytes(encoded(pixels))
    i = np.arange(10)
    assert_columns(load(tmp_path / "f"), {"label=a": i >= 5, "label=b": i < 5})
    assert load(folder_of(tmp_path / "g")).attribute_names == []


def test_metadata_of_a_folder(tmp_path):
    folder = folder_of(tmp_path / "f")
    with_metadata(
        folder,
        file_name=["03.png", "./00.png", "09.png", "gone.png"],
        smiling=[True, None, False, True],
        age=[3, 0, None, 1],
        hair=["red", "black", None, "blue"],
        noted=["a", None, None, None],
    )
    images = load(folder)
    assert images.notes == [] and load(folder, strict=True).notes == []

    def column(**known: float) -> list[float]:
        return [known.get(f"n{i}", NAN) for i in range(10)]

    assert_columns(
        images,
        {
            "smiling": column(n3=1, n9=0),
            "age": column(n3=3, n0=0),
            "hair=black": column(n3=0, n0=1),
            "hair=red": column(n3=1, n0=0),
            "noted=a": column(n3=1),
        },
    )


def test_metadata_in_the_folders_of_splits(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        folder = folder_of(tmp_path / "f" / split / "deep", count).parent
        names = [f"deep/{i:02}.png" for i in range(count)]
        with_metadata(folder, file_name=names, code=[count * 10 + i for i in range(count)])
    images = load(tmp_path / "f")
    place = images.attribute_names.index("code")
    for name, base in (("train", 60), ("val", 60), ("test", 30)):
        values = images.split(name).attributes[:, place].tolist()
        assert values == [base + n for n in numbers(images, name)]


def test_a_label_in_the_metadata_stands_above_that_of_the_folder(tmp_path):
    folder = folder_of(tmp_path / "f" / "a", 3).parent
    with_metadata(folder, file_name=[f"a/0{i}.png" for i in range(3)], label=["x", "y", "x"])
    assert_columns(load(folder), {"label=x": [1, 0, 1], "label=y": [0, 1, 0]})


def test_file_names_of_digits(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(3):
        (folder / f"00{i}").write_bytes(encoded(np.full((6, 8), i, np.uint8)))
    with_metadata(folder, file_name=[f"00{i}" for i in range(3)], a=[5, 6, 7])
    assert_columns(load(folder), {"a": [5, 6, 7]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,a\n00.png,1\n", ["no column 'file_name'", "did you mean 'name'", "name, a"]),
        ("file_name,a\nf/00.png,1\n", ["no image that is there", "f/00.png"]),
        ("file_name,a\n", ["no image that is there"]),
        ("file_name,a\n00.png,1\n./00.png,2\n", ["00.png a second time"]),
        ("file_name,a\n00.png,1\n,2\n", ["no file_name in row 2"]),
        ("", ["damaged"]),
        ('file_name,a\n"00.png,1\n', ["damaged"]),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, text, words):
    folder = folder_of(tmp_path / "f")
    (folder / "metadata.csv").write_text(text)
    sentence = refusal(lambda: load(folder))
    assert all(word in sentence for word in [str(folder), "metadata.csv", *words])


# The cache


def test_a_cache_gives_the_same_attributes_and_follows_the_metadata(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "f")
    with_metadata(folder, file_name=["00.png", "01.png"], age=[1, 2])
    first = columns_of(load(folder))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "open_image", None)
        again = columns_of(load(folder))
        assert str(again) == str(first) and str(NAN) in str(again)
    with_metadata(folder, file_name=["00.png", "01.png"], age=[1, 200])
    assert columns_of(load(folder))["age"][1] == 200


def test_images_that_are_left_out_take_their_attributes_along(tmp_path):
    folder = folder_of(tmp_path / "f")
    for i in (0, 4, 9):
        (folder / f"0{i}.png").write_text("broken")
    with_metadata(folder, file_name=[f"0{i}.png" for i in range(10)], age=list(range(10)))
    images = load(folder)
    assert "left out 3 of 10" in images.notes[0]
    assert columns_of(images)["age"] == {i: i for i in range(10) if i not in (0, 4, 9)}


# Context


@pytest.fixture
def faces(tmp_path) -> Path:
    pq.write_table(rich_table(), tmp_path / "faces.parquet")
    return tmp_path / "faces.parquet"


def test_context_comes_with_its_images_in_the_order_asked_for(faces):
    images = load(faces, context=["celeb", "label", "id", "hat=top"])
    labels = [f"label={name}" for name in ("ape", "bee", "cat", "dog")]
    assert images.context.columns == ["celeb", *labels, "id", "hat=top"]
    assert images.context.width == 7
    assert images.context.variables == (
        Number("celeb"),
        Category("label", ("ape", "bee", "cat", "dog")),
        Number("id"),
        Number("hat=top"),
    )
    assert load(faces, context=["label"]).context.category.name == "label"
    for split in (images.train, images.val, images.test):
        indices = torch.arange(len(split)).flip(0)
        x, context = split.take(indices)
        assert context.dtype == torch.float32 and context.shape == (len(split), 7)
        assert (x == split.batch(indices)).all()
        for n, row in zip(x[:, 0, 0, 0].tolist(), context.tolist(), strict=True):
            classes = [float(n % 3 == k) for k in range(4)]
            assert row == [1 - 2 * (n % 2), *classes, n, n % 2 == 0]


def test_another_context_for_the_same_data(faces):
    plain = load(faces)
    assert not plain.context and plain.train.take(torch.arange(3))[1] is None
    images = plain.conditional_on(["smiling"])
    assert images.context.columns == ["smiling"] and images.options.context == ["smiling"]
    assert images.train.pixels is plain.train.pixels and plain.train.context is None
    assert torch.equal(images.val.context, load(faces, context=["smiling"]).val.context)
    again = images.conditional_on(["id", "smiling"])
    assert again.context.columns == ["id", "smiling"]
    none = again.conditional_on([])
    assert not none.context and none.test.context is None and none.options.context is None


def test_a_gallery_has_attributes_and_context(faces):
    gallery = load_gallery(ImageOptions(str(faces), cache="cache", context=["hat", "id"]))
    assert gallery.context.columns == ["hat=bowler", "hat=top", "id"]
    x, context = gallery.images.take(torch.tensor([7, 2]))
    assert x[:, 0, 0, 0].tolist() == [7, 2] and context.tolist() == [[1, 0, 7], [0, 1, 2]]
    assert gallery.attribute_names == load(faces).attribute_names
    assert gallery.images.attributes.shape == (12, len(gallery.attribute_names))
    with pytest.raises(ValueError, match="lack 'age'"):
        load_gallery(ImageOptions(str(faces), cache="cache", context=["age"]))


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (["smilng"], ["no attribute 'smilng'", "did you mean 'smiling'", "id, smiling, celeb"]),
        (["labl"], ["did you mean 'label'"]),
        (["label=ap"], ["did you mean 'label=ape'"]),
        (["caption="], ["no attribute 'caption='"]),
        (["id", "id"], ["'id' is chosen twice"]),
        (["label=bee", "label"], ["'label=bee' is chosen twice"]),
        (["age"], ["1 of 12 lack 'age'", "--data.context"]),
        (["hair"], ["1 of 12 lack 'hair=black', 1 of 12 lack 'hair=red'"]),
        ([""], ["no attribute ''"]),
    ],
)
def test_context_that_cannot_be_had(faces, context, words):
    sentence = refusal(lambda: load(faces, context=context))
    assert all(word in sentence for word in [faces.name, *words])


def test_images_without_attributes_have_no_context(tmp_path):
    folder = folder_of(tmp_path / "f")
    sentence = refusal(lambda: load(folder, context=["label"]))
    assert "no attributes" in sentence and "--data.context" in sentence


def test_a_name_means_itself_before_its_values():
    number, texts, other = Number("a=b"), Category("a", ("b", "c")), Category("a=b=", ("c",))
    known = ContextSpec((texts, number, other))
    assert choose("s", known, ["a=b"]).variables == (number,)
    values = torch.tensor([[0.0, 1.0, 7.0, 1.0]])
    assert context_columns("s", known, values, ContextSpec((number,))).tolist() == [[7]]
    assert context_columns("s", known, values, ContextSpec((texts,))).tolist() == [[0, 1]]
    assert choose("s", known, ["a"]).variables == (texts,)


def test_a_gallery_takes_the_context_of_a_model(faces):
    gallery = load_gallery(ImageOptions(str(faces), cache="cache"))
    # A model of more classes, in another order, and of one value of a text.
    spec = ContextSpec(
        (Category("label", ("owl", "cat", "bee", "ape")), Number("id"), Number("hat=top"))
    )
    found = gallery.conditional_on("here", spec)
    assert found.context == spec
    _, context = found.images.take(torch.tensor([0, 5]))
    assert context.tolist() == [[0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 5, 0]]
    for variable, words in (
        (Category("label", ("ape", "bee")), ["4 of 12 have another 'label'", "ape, bee"]),
        (Category("id", ("1",)), ["'id' is of another kind"]),
        (Number("label"), ["'label' is of another kind"]),
        (Category("labl", ("1",)), ["did you mean 'label'"]),
    ):
        with pytest.raises(ValueError) as caught:
            gallery.conditional_on("here", ContextSpec((variable,)))
        assert all(word in str(caught.value) for word in ["here", *words])


# Images or table


def test_context_does_not_make_a_table_of_images(faces, tmp_path):
    options = DataOptions(str(faces), context=["smiling"], cache="cache")
    assert holds_images(options) and isinstance(load_data(options), Images)
    assert not holds_images(DataOptions(str(faces), columns=["id"], context=["smiling"]))
    table = load_data(DataOptions(str(faces), columns=["id"], context=["celeb"]))
    assert isinstance(table, Table) and table.context.columns == ["celeb"]
    random = np.random.default_rng(0)
    plain = pa.table({"a": random.normal(size=50), "b": random.normal(size=50)})
    pq.write_table(plain, tmp_path / "plain.parquet")
    options = DataOptions(str(tmp_path / "plain.parquet"), context=["b"])
    assert not holds_images(options)
    table = load_data(options)
    assert isinstance(table, Table) and table.columns == ["a"] and table.context.columns == ["b"]
    moons = load_data(DataOptions("moons", rows=100, context=["label"]))
    assert isinstance(moons, Table) and moons.context.columns == ["label"]


def test_an_array_of_images_takes_context(tmp_path):
    np.savez(tmp_path / "a.npz", x=noise(20, 4, 4), y=np.arange(20) % 2)
    images = load_data(DataOptions(str(tmp_path / "a.npz"), context=["label=1"], cache="cache"))
    assert torch.equal(images.train.context[:, 0], images.train.labels.float())
