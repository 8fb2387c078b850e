"""pack --labels: labels from CSV, TSV, JSON and JSON lines of others, and from the JSON beside each image."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, dprune, image_bytes, members, sample, write_tar
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features
from test_folders import labels, pack, refused, tree, zipped

from dprune.errors import InputError
from dprune.packing.label_files import plain_name, read_labels
from dprune.packing.label_rows import RowNames

FILES = DATA / "labels"
NAMES = ["ape", "cat", "dog", "cat", "emu, great", 'the "best"']


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Six images without labels."""
    return tree(tmp_path / "flat", *(f"{row:03d}.png" for row in range(6)))


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def given_labels(source: Path, output: Path, labels_file: object, *args: object) -> dict[str, Any]:
    return pack(source, output, "--labels", labels_file, *args)


def names(output: Path) -> dict[str, str]:
    """The class of each key."""
    classes = (output / "classes.txt").read_text().split("\n")
    return {key: classes[label] for key, label in labels(output).items()}


# Files of others


@pytest.mark.parametrize(
    "name",
    ["plain.csv", "indexed.csv", "bare.csv", "tabs.tsv", "semicolons.csv", "metadata.jsonl", "records.json",
     "series.json"],
)  # fmt: skip
def test_what_pandas_writes_is_read(flat: Path, tmp_path: Path, name: str) -> None:
    summary = given_labels(flat, tmp_path / "out", FILES / name)
    assert (summary["samples"], summary["classes"]) == (6, 5)
    assert names(tmp_path / "out") == {f"{row:03d}": label for row, label in enumerate(NAMES)}
    assert (tmp_path / "out" / "classes.txt").read_text() == 'ape\ncat\ndog\nemu, great\nthe "best"\n'


@pytest.mark.parametrize("name", ["numbers.csv", "numbers.jsonl"])
def test_numbers_stay_and_a_gap_is_no_label(flat: Path, tmp_path: Path, name: str) -> None:
    assert given_labels(flat, tmp_path / "out", FILES / name)["classes"] == 0
    assert labels(tmp_path / "out") == {"000": 3, "001": 1, "002": 4, "003": 1, "005": 9}
    assert not (tmp_path / "out" / "classes.txt").exists()


def test_a_zip_of_edm_is_labelled_by_the_file_in_it(tmp_path: Path) -> None:
    summary = given_labels(FILES / "edm.zip", tmp_path / "out", "dataset.json")
    assert "left_out" not in summary
    assert list(labels(tmp_path / "out").values()) == [0, 0, 1, 1, 2]
    with zipfile.ZipFile(FILES / "edm.zip") as archive:
        archive.extractall(tmp_path / "in")
    for number, file in enumerate(("dataset.json", tmp_path / "in" / "dataset.json")):
        folder = tmp_path / f"unpacked{number}"
        assert "left_out" not in given_labels(tmp_path / "in", folder, file)
        assert members(folder) == members(tmp_path / "out")
    # Its folders are no classes.
    assert pack(FILES / "edm.zip", tmp_path / "folders")["classes"] == 1
    refused(FILES / "edm.zip", "--labels", "labels.json").fails(3, "labels.json: no such file")


@pytest.mark.parametrize(
    "content",
    [
        "000.png;ape\n001.png;cat\n",
        "\ufefffile,label\r\n000.png,ape\r\n001.png,cat\r\n\r\n",
        "label\tsplit\tid\nape\ttrain\t000\ncat\ttrain\t001\n",
        "Image Name , Species\n000.png, ape\n001.png, cat\n",
        "breed,id\nape,000\ncat,001\n",
        "000.png ape\n001.png   cat\n",
        '"000.png","ape"\n"001.png","cat"',
        ".\\000.png,ape\nphotos\\001.png,cat\n",
        "photos/000.png,ape\n/nowhere/else/photos/001.png,cat\n",
        "000.jpg,ape\n001,cat\n",
        '[["000.png", "ape"], ["001.png", "cat"]]',
        '{"labels": {"000.png": "ape", "001.png": "cat"}}',
        '{"image": "000.png", "Class": "ape", "box": [1, 2]}\n\n{"image": "001.png", "Class": "cat", "box": []}\n',
        '[{"key": "000", "label": "ape"}, {"key": "001", "label": "cat"}]',
    ],
)
def test_forms_that_people_write(tmp_path: Path, content: str) -> None:
    photos = tree(tmp_path / "photos", "000.png", "001.png")
    if "/nowhere" in content:
        content = content.replace("/nowhere/else", str(tmp_path))
    given_labels(photos, tmp_path / "out", write(tmp_path / "labels.txt", content))
    assert names(tmp_path / "out") == {"000": "ape", "001": "cat"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("000.png 65\n001.png 970\n", [65, 970]),
        ("image,n\n000.png,7\n001.png,-1\n", [7]),
        ('{"000": 2, "001": "3"}', [2, 3]),
    ],
)
def test_numbers_that_people_write(tmp_path: Path, content: str, expected: list[int]) -> None:
    photos = tree(tmp_path / "photos", "000.png", "001.png")
    given_labels(photos, tmp_path / "out", write(tmp_path / "labels.txt", content))
    assert list(labels(tmp_path / "out").values()) == expected


def test_one_object_is_a_row_or_a_table() -> None:
    assert read_labels("x", b'{"file": "a.png", "label": 3}') == {"a.png": 3}
    assert read_labels("x", b'{"a.png": 3, "label": "x"}') == {"a.png": 3, "label": "x"}


# Sources


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Path]:
    """The same images as a folder with classes, a zip, shards with other labels, a table and an archive of arrays."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tree(tmp_path / "folder", "x/a.png", "y/b.png", "y/c.png")
    found = {"folder": folder, "zip": zipped(folder)}
    pack(folder, tmp_path / "shards")
    found["shards"] = tmp_path / "shards"
    images = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(folder.rglob("*.png"))}
    rows = [{"bytes": content, "path": path} for path, content in images.items()]
    found["table"] = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": rows, "label": ["p", "q", "r"]}), found["table"])
    found["npz"] = tmp_path / "n.npz"
    arrays = [np.asarray(Image.open(io.BytesIO(content))) for content in images.values()]
    np.savez(found["npz"], np.stack(arrays), np.array([5, 6, 7]))
    return found


@pytest.mark.parametrize("kind", ["folder", "zip", "shards", "table", "npz"])
def test_every_kind_of_source_takes_labels(kinds: dict[str, Path], tmp_path: Path, kind: str) -> None:
    keys = {"table": ["a", "b", "c"], "npz": [f"{row:08d}" for row in range(3)]}.get(kind, ["x/a", "y/b", "y/c"])
    rows = "".join(f"{key},{name}\n" for key, name in zip(keys, ("emu", "cat", ""), strict=True))
    file, out = write(tmp_path / "labels.csv", rows), tmp_path / "out"
    dprune("pack", kinds[kind], "-o", out, "--labels", file, "--workers", 2).ok()
    assert names(out) == {keys[0]: "emu", keys[1]: "cat"}
    assert (out / "classes.txt").read_text() == "cat\nemu\n"
    assert list(members(out)) == [
        f"{keys[0]}.png",
        f"{keys[0]}.cls",
        f"{keys[1]}.png",
        f"{keys[1]}.cls",
        f"{keys[2]}.png",
    ]
    assert "up to date" in dprune("pack", kinds[kind], "-o", out, "--labels", file).ok().err
    record = json.loads((out / "manifest.json").read_text())["provenance"]
    assert sorted(record["parents"]) == sorted(["shards" if kind == "shards" else "images", "labels"])
    write(file, rows.replace("emu", "cow"))
    dprune("pack", kinds[kind], "-o", out, "--labels", file).fails(3, "made differently", "labels")


def test_one_file_labels_several_sources(kinds: dict[str, Path], tmp_path: Path) -> None:
    more = tree(tmp_path / "more", "z.png")
    file = write(tmp_path / "labels.csv", "a,one\nb,two\nc,two\nz.png,one\n")
    for kind in ("folder", "shards"):
        out = tmp_path / f"{kind}-out"
        dprune("pack", kinds[kind], more, "-o", out, "--labels", file, "--workers", 0).ok()
        assert names(out) == {"x/a": "one", "y/b": "two", "y/c": "two", "z": "one"}
    numbered = write_tar(tmp_path / "numbered" / "0.tar", sample("n", 9, 4)).parent
    write(file, "a,one\nb,two\nc,two\nn,three\n")
    # Labels that would not mix are not looked at.
    dprune("pack", kinds["folder"], numbered, "-o", tmp_path / "mixed", "--labels", file, "--workers", 0).ok()
    assert names(tmp_path / "mixed")["n"] == "three"


def test_splits_and_subsets_have_rows_of_their_own_in_one_file(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "train/a.png", "train/b.png", "val/a.png")
    file = write(folder / "labels.csv", "path,label\ntrain/a.png,cat\ntrain/b.png,dog\nval/a.png,ape\n")
    for split, expected in (("train", {"train/a": "cat", "train/b": "dog"}), ("val", {"val/a": "ape"})):
        summary = given_labels(folder, tmp_path / split, file, "--split", split)
        assert (names(tmp_path / split), summary["classes"]) == (expected, 3)
        assert ".csv" not in summary["left_out"]
    given_labels(
        folder / "train", tmp_path / "alone", write(tmp_path / "train.csv", "train/a.png,cat\ntrain/b.png,dog\n")
    )
    assert names(tmp_path / "alone") == {"a": "cat", "b": "dog"}
    pack(folder, tmp_path / "shards")
    np.save(tmp_path / "keep.npy", np.array([1]))
    rows = write(tmp_path / "rows.csv", "train/a,cat\ntrain/b,dog\n")
    given_labels(tmp_path / "shards", tmp_path / "kept", rows, "--subset", tmp_path / "keep.npy")
    assert (names(tmp_path / "kept"), (tmp_path / "kept" / "classes.txt").read_text()) == (
        {"train/b": "dog"},
        "cat\ndog\n",
    )


def test_a_list_beside_the_file_or_in_the_folder_says_the_order(flat: Path, tmp_path: Path) -> None:
    order = 'dog\nthe "best"\nemu, great\ncat\nape\nunseen\n'
    shutil.copy(FILES / "plain.csv", write(tmp_path / "l" / "classes.txt", order).with_name("labels.csv"))
    given_labels(flat, tmp_path / "a", tmp_path / "l" / "labels.csv")
    assert (tmp_path / "a" / "classes.txt").read_text() == order
    assert labels(tmp_path / "a") == {"000": 4, "001": 3, "002": 0, "003": 3, "004": 2, "005": 1}
    record = json.loads((tmp_path / "a" / "manifest.json").read_text())["provenance"]
    assert sorted(record["parents"]) == ["classes", "images", "labels"]
    write(flat / "classes.txt", order)
    for source in (flat, zipped(flat)):
        out = tmp_path / f"b{source.suffix}"
        assert "left_out" not in given_labels(source, out, FILES / "plain.csv")
        assert members(out) == members(tmp_path / "a")
    write(flat / "classes.txt", "dog\ncat\n")
    refused(flat, "--labels", FILES / "plain.csv").fails(3, "plain.csv: the class ape is not in classes.txt", "add it")
    refused(flat, "--labels", FILES / "numbers.csv").fails(3, "numbers.csv: the class 3 is not in classes.txt")
    write(flat / "classes.txt", "".join(f"c{number}\n" for number in range(10)))
    assert given_labels(flat, tmp_path / "c", FILES / "numbers.csv")["classes"] == 10
    assert names(tmp_path / "c")["005"] == "c9"


# The JSON beside each image


@pytest.mark.parametrize("kind", ["folder", "zip", "shards"])
def test_a_field_of_the_json_beside_each_image(tmp_path: Path, kind: str) -> None:
    folder = tree(tmp_path / "in", "a.png", "sub/b.png", "c.png")
    for key, label in (("a", "dog"), ("sub/b", "cat"), ("c", None)):
        write(folder / f"{key}.json", json.dumps({"label": label, "caption": "x"}))
    source = {"folder": lambda: folder, "zip": lambda: zipped(folder)}.get(kind, lambda: tmp_path / "shards")()
    if kind == "shards":
        pack(folder, source, "--beside", "json")
    summary = given_labels(source, tmp_path / "out", "json:label")
    assert (names(tmp_path / "out"), summary["classes"], "left_out" in summary) == (
        {"a": "dog", "sub/b": "cat"},
        2,
        False,
    )
    assert ("a.json" in members(tmp_path / "out")) == (kind == "shards")
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]
    assert record["options"]["labels"] == "json:label"
    assert "up to date" in dprune("pack", source, "-o", tmp_path / "out", "--labels", "json:label").ok().err
    given_labels(source, tmp_path / "size", "json:label", "--size", 4)
    assert names(tmp_path / "size") == names(tmp_path / "out")
    refused(source, "--labels", "json:size").fails(3, "a.json: has no field 'size'")


def test_json_that_is_missing_or_damaged(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "a.png", "b.png")
    write(folder / "a.json", '{"label": 1}')
    refused(folder, "--labels", "json:label").fails(3, "1 of 2 images have no json beside them, such as 'b'")
    for content, words in (
        ("[1]", "has no field 'label'"),
        ('{"label": ', "not valid JSON"),
        ('{"label": 1.5}', "is 1.5,"),
        ('{"label": "x"}', "two types, such as 'x' and 1"),
    ):
        write(folder / "b.json", content)
        refused(folder, "--labels", "json:label").fails(3, words)
    refused(folder, "--labels", "json:").fails(2, "--labels json: name a field")
    refused(Path("sklearn:digits"), "--labels", "json:label", "-o", tmp_path / "o").fails(2, "is for folders, zips and")


# What does not fit


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("000.png,ape\n", ["has no row for 1 of 2 images, such as '001'", "an empty label for no label"]),
        ("000.png,ape\n001.png,x\n002.png,y\n003.png,z\n", ["2 of 4 rows have no image, such as that of '002.png'"]),
        ("x.png,ape\ny.png,ape\n", ["names none of the images: these have names like '000'", "like 'x.png'"]),
        ("000.png,ape\n001.png,7\n", ["labels are of two types, such as 'ape' and 7"]),
        ('{"000.png": "ape", "001.png": 7}', ["labels are of two types"]),
        ("000.png,ape\n000.png,cat\n", ["names '000.png' twice"]),
        ("000.png,0\n001.png,-7\n", ["the label -7 is negative"]),
        ("000.png,ape,1\n001.png,cat,2\n", ["has 3 columns and no header", "call them file and label"]),
        ("a,b,c\n000.png,cat,2\n", ["has 3 columns and no header"]),
        ("file,label\n000.png,ape\n001.png,cat,more\n", ["line 3 has 3 columns, and the first 2"]),
        ("000.png\n001.png\n", ["has one column"]),
        ('000.png,ape\n001.png,"cat\n', ["line 2 is not a row of a table"]),
        ("", ["has one column"]),
        ("file,label\n", ["holds no labels"]),
        ('{"000.png": [0, 1], "001.png": [1, 0]}', ["000.png: the label is a list, neither a name nor a whole number"]),
        ('{"000.png": true}', ["the label is true, neither"]),
        ('{"000.png": 1.5}', ["the label is 1.5, neither"]),
        ('{"000.png": 1e300}', ["the label is 1e+300, neither"]),
        ('{"000.png": -9223372036854775808.0, "001.png": 9.3e18}', ["neither"]),
        ('{"labels": null}', ["holds no labels (null was found instead)"]),
        ('{"000.png": 1', ["is not valid JSON"]),
        ("[1, 2]", ["its objects have no field for the file, such as file_name"]),
        ('[["000.png", 1], ["001.png"]]', ["entry 2 is not a pair"]),
        ('{"file": "000.png", "text": "x"}\n{"file": "001.png"}', ["its objects have no field for the label"]),
        ('{"file": "000.png", "label": 1}\n{"file": "001.png"}', ["entry 2 lacks 'file' or 'label'"]),
        ('{"file": "000.png", "label": 1}\nnonsense', ["is not valid JSON", "line 2"]),
        ("000.png,a\0\n", ["is not text"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, content: str, words: list[str]) -> None:
    photos, file = tree(tmp_path / "photos", "000.png", "001.png"), write(tmp_path / "labels.csv", content)
    refused(photos, "--labels", file).fails(3, "labels.csv", *words)
    assert not (tmp_path / "refused").exists()


def test_a_name_that_may_be_of_two_images_is_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "x/a.png", "y/a.png")
    file = write(tmp_path / "labels.csv", "a.png,cat\nb.png,dog\n")
    refused(folder, "--labels", file).fails(3, "'a.png' may be the image of 'x/a' or 'y/a'", "write paths")
    write(file, "x/a.png,cat\ny/a.png,dog\n")
    given_labels(folder, tmp_path / "out", file)
    assert names(tmp_path / "out") == {"x/a": "cat", "y/a": "dog"}
    twins = tree(tmp_path / "twins", "a.png", "a.jpg")
    given_labels(twins, tmp_path / "both", write(file, "a.png,cat\na.jpg,dog\n"), "--keys", "unique")
    assert names(tmp_path / "both") == {"a": "dog", "a-2": "cat"}
    refused(twins, "--keys", "unique", "--labels", write(file, "a,cat\n")).fails(3, "may be the image of")


def test_labels_come_from_one_place(flat: Path, shards: Path, tmp_path: Path) -> None:
    file = FILES / "plain.csv"
    for source, *args in ((flat, "--beside", "cls"), (shards, "--label-member", "y"), (flat, "--label-column", "y")):
        option = " ".join(args).removesuffix(" y")
        refused(source, "--labels", file, *args).fails(2, f"--labels and {option} both say where labels come from")
    stream = f"file://{shards}/000000.tar"
    dprune("pack", stream, "-o", tmp_path / "o", "--labels", file).fails(2, "--labels needs all keys beforehand")
    refused(flat, "--labels", tmp_path).fails(3, "cannot be read")
    refused(flat, "--labels", FILES / "edm.zip").fails(3, "edm.zip: is not text")
    (tmp_path / "l").mkdir()
    shutil.copy(file, tmp_path / "l")
    for content, words in (("a\na\n", "the class 'a' stands twice"), ("a\n\nb", "line 2 is empty")):
        write(tmp_path / "l" / "classes.txt", content)
        refused(flat, "--labels", tmp_path / "l" / "plain.csv").fails(3, f"classes.txt: {words}")


def test_what_is_damaged_in_an_archive_is_named(tmp_path: Path) -> None:
    data = (FILES / "edm.zip").read_bytes()
    place = data.index(b'"labels"')
    (tmp_path / "e.zip").write_bytes(data[:place] + b'"lapels"' + data[place + 8 :])
    refused(tmp_path / "e.zip", "--labels", "dataset.json").fails(
        3, "e.zip: dataset.json cannot be read from the archive"
    )
    folder = tree(tmp_path / "in", "cat/a.png")
    write(folder / "classes.txt", "cat\n")
    whole = zipped(folder).read_bytes()
    place = whole.index(b"cat\n")
    (tmp_path / "in.zip").write_bytes(whole[:place] + b"dog\n" + whole[place + 4 :])
    refused(tmp_path / "in.zip").fails(3, "in.zip: classes.txt cannot be read from the archive")


def test_a_stopped_pack_goes_on_with_the_same_labels(flat: Path, tmp_path: Path) -> None:
    given_labels(flat, tmp_path / "whole", FILES / "plain.csv", "--shard-size", 2)
    given_labels(flat, tmp_path / "out", FILES / "plain.csv", "--shard-size", 2)
    (tmp_path / "out" / "000001.tar").unlink()
    given_labels(flat, tmp_path / "out", FILES / "plain.csv", "--shard-size", 2)
    for name in ("000000.tar", "000001.tar", "000002.tar", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_images_that_cannot_be_decoded_keep_their_rows(flat: Path, tmp_path: Path) -> None:
    (flat / "002.png").write_bytes(b"junk")
    assert given_labels(flat, tmp_path / "out", FILES / "plain.csv")["unreadable"] == 1
    assert labels(tmp_path / "out") == {"000": 0, "001": 1, "003": 1, "004": 3, "005": 4}


# Suffixes


def _encoded(form: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image_bytes(seed, (8, 8)))).save(buffer, form)
    return buffer.getvalue()


SUFFIXES = {"a.JPG": "JPEG", "b.JPEG": "JPEG", "c.PNG": "PNG", "d.jfif": "JPEG", "e.JFIF": "JPEG", "f.WebP": "WEBP",
            **({"g.avif": "AVIF", "h.AVIF": "AVIF"} if features.check("avif") else {})}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_suffixes_in_any_case_from_end_to_end(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "in" / "ape"
    folder.mkdir(parents=True)
    for seed, (name, form) in enumerate(SUFFIXES.items()):
        (folder / name).write_bytes(_encoded(form, seed))
    source = zipped(tmp_path / "in") if packed else tmp_path / "in"
    rows = "".join(f"ape/{name},{name[0]}\n" for name in SUFFIXES)
    summary = given_labels(source, tmp_path / "out", write(tmp_path / "labels.csv", rows))
    assert (summary["samples"], summary["unreadable"]) == (len(SUFFIXES), 0)
    suffixes = {"JPEG": "jpg", "AVIF": "png", "PNG": "png", "WEBP": "webp"}
    expected = [f"ape/{name[0]}.{'jpeg' if name == 'b.JPEG' else suffixes[form]}" for name, form in SUFFIXES.items()]
    assert [name for name in members(tmp_path / "out") if not name.endswith(".cls")] == expected
    dprune("embed", tmp_path / "out", "--model", "pixels", "--image-size", 4, "--workers", 0, "-o", tmp_path / "f").ok()
    for name in ("ape/a.jpg", "ape/d.jpg"):
        assert members(tmp_path / "out")[name] == (folder / ("a.JPG" if "a." in name else "d.jfif")).read_bytes()


def test_members_of_shards_of_others_in_any_case(tmp_path: Path) -> None:
    shards = write_tar(
        tmp_path / "s" / "0.tar", [("a.JPEG", _encoded("JPEG", 1)), ("a.CLS", b"3"), ("b.PNG", image_bytes(2))]
    )
    pack(shards.parent, tmp_path / "out")
    assert list(members(tmp_path / "out")) == ["a.jpeg", "a.cls", "b.png"]
    jfif = write_tar(tmp_path / "j" / "0.tar", [("a.JFIF", _encoded("JPEG", 1)), ("a.cls", b"3")])
    refused(jfif.parent).fails(3, "their suffixes: cls (1), jfif (1)", "--image-member")
    pack(jfif.parent, tmp_path / "jpg", "--image-member", "jfif")
    assert members(tmp_path / "jpg") == {"a.jpg": _encoded("JPEG", 1), "a.cls": b"3"}
    if features.check("avif"):
        avif = write_tar(tmp_path / "v" / "0.tar", [("a.avif", _encoded("AVIF", 1))])
        pack(avif.parent, tmp_path / "png", "--image-member", "avif")
        assert list(members(tmp_path / "png")) == ["a.png"]


# Names


@given(st.lists(st.text("ab/", min_size=1, max_size=6), min_size=1, max_size=6), st.text("ab/", max_size=8))
def test_a_row_is_found_by_the_longest_end_of_a_path(rows: list[str], path: str) -> None:
    known = list(dict.fromkeys(rows))
    parts = path.split("/")
    ends = ["/".join(parts[begin:]) for begin in range(len(parts))]
    assert RowNames(known).find(path) == next((known.index(end) for end in ends if end in known), None)


@pytest.mark.parametrize(
    ("rows", "path", "found"),
    [
        (["a.v1.png", "a.v2.png"], "/x/a.v2.png", 1),
        (["a.v1.png", "a.v2.png"], "x/a_v2", 1),
        (["a_v1"], "/x/a.v1.png", 0),
        (["v1.0/a.png"], "v1_0/a", 0),
        (["a.jpg", "a.png"], "a.png", 1),
        (["a.jpg", "a.png"], "a.webp", None),
        (["a.b", "a_b"], "a_b", 1),
        (["a.b", "a_b"], "a.b.png", None),
        (["x/a.png", "a.png"], "/y/x/a.png", 0),
        (["/y/x/a.png"], "/y/x/a.png", 0),
        (["/x/a.png"], "/y/x/a.png", None),
        (["xa.png"], "/x/a.png", None),
        (["u\u0308.png"], "/x/\u00fc.png", 0),
    ],
)
def test_which_row_is_found(rows: list[str], path: str, found: int | None) -> None:
    assert RowNames(map(plain_name, rows)).find(path) == found


@given(st.binary(max_size=60) | st.text('{}[]",:;\t\n 0.ab', max_size=60).map(str.encode))
def test_any_content_is_read_or_refused(data: bytes) -> None:
    try:
        found = read_labels("x", data)
    except InputError:
        return
    assert found
    assert all(isinstance(label, str | int | None) for label in found.values())
