"""dprune pack of tables: parquet files, and datasets that Hugging Face's library exported, saved and cached."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DATA, Result, dprune, image_bytes, members
from damage import damaged
from PIL import Image

from dprune.formats.npz_images import NO_LABELS
from dprune.formats.table_files import TableFile, open_table
from dprune.packing.table_columns import TableChoice
from dprune.packing.tables import TableSource

TABLES = DATA / "tables"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pack(source: Path | list[Path], output: Path, *args: object) -> dict[str, Any]:
    """What a pack says in JSON."""
    sources = source if isinstance(source, list) else [source]
    result = dprune("pack", *sources, "-o", output, "--workers", 0, "--json", *args).ok()
    summary: dict[str, Any] = json.loads(result.out)
    return summary


def refused(source: Path, *args: object) -> Result:
    return dprune("pack", source, "-o", source.with_name("refused"), "--workers", 0, *args)


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def drawn(seed: int) -> np.ndarray[Any, Any]:
    """The image of a row, as make.py beside the files draws it."""
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def struct(count: int, name: str | None = None) -> pa.Array:
    """Images as Hugging Face writes them."""
    rows = [{"bytes": image_bytes(i, (8, 8)), "path": name and name.format(i)} for i in range(count)]
    return pa.array(rows, type=STRUCT)


def table(path: Path, group: int = 1000, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def labels(folder: Path) -> list[int]:
    return [int(data) for name, data in members(folder).items() if name.endswith(".cls")]


def keys(folder: Path) -> list[str]:
    return [name.removesuffix(".png") for name in members(folder) if name.endswith(".png")]


# What Hugging Face's library wrote


@pytest.mark.parametrize(
    ("source", "split", "rows"),
    [
        ("hub", "train", range(5)),
        ("hub", "test", range(5, 7)),
        ("hub/data", "train", range(5)),
        ("hub/data/test-00000-of-00001.parquet", None, range(5, 7)),
        ("hub/data/train-*.parquet", None, range(5)),
        ("saved", None, range(5)),
        ("dict", "train", range(5)),
        ("dict", "test", range(5, 7)),
        ("dict/test", None, range(5, 7)),
        ("cached", "train", range(5)),
        ("cached", "test", range(5, 7)),
    ],
)
def test_datasets_of_hugging_face(tmp_path: Path, source: str, split: str | None, rows: range) -> None:
    said = pack(TABLES / source, tmp_path / "out", *(["--split", split] if split else []))
    found = members(tmp_path / "out")
    assert (said["samples"], said["classes"]) == (len(rows), 3)
    assert keys(tmp_path / "out") == [f"{row:08d}" for row in range(len(rows))]
    for place, row in enumerate(rows):
        assert np.array_equal(pixels(found[f"{place:08d}.png"]), drawn(row))
    assert labels(tmp_path / "out") == [row % 3 for row in rows]
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\neel\n"
    if source == "cached":
        other = {"train": {"test/": 2}, "test": {"train/": 5}}[str(split)]
        # What map left there is another dataset, of images that are turned around.
        assert said["left_out"] == {"cached results of map and filter": 1} | other
    assert "up to date" in dprune("pack", TABLES / source, "-o", tmp_path / "out",
                                  *(["--split", split] if split else [])).ok().err  # fmt: skip


def test_what_caches_keep_together_is_not_taken_for_one(tmp_path: Path) -> None:
    cached = next((TABLES / "cached").rglob("dataset_info.json")).parent
    shutil.copytree(cached, tmp_path / "hub" / "default" / "0.0.0" / "a")
    shutil.copytree(cached, tmp_path / "hub" / "default" / "0.0.0" / "b")
    refused(tmp_path / "hub", "--split", "train").fails(3, "2 cached datasets", "default/0.0.0/a", "give one folder")
    hub = tmp_path / "datasets--me--pets"
    (hub / "blobs").mkdir(parents=True)
    for number, version in enumerate(("a" * 40, "b" * 40)):
        data = hub / "snapshots" / version / "data"
        data.mkdir(parents=True)
        for file in (TABLES / "hub" / "data").iterdir():
            (hub / "blobs" / file.stem).write_bytes(file.read_bytes())
            (data / file.name).symlink_to(Path("../../../blobs") / file.stem)
        if not number:
            assert pack(hub, tmp_path / "out", "--split", "train")["samples"] == 5
    refused(hub, "--split", "train").fails(3, "2 cached datasets", "snapshots/aaaa", "give one folder")


@pytest.mark.parametrize(
    ("names", "split", "rows"),
    [
        (["pets-train", "pets-test"], "train", 1),
        (["pets_train_0", "pets_train_1", "pets_val_0"], "train", 2),
        (["train-00000-of-00001-a1b2c3", "validation-00000-of-00001-d4e5f6"], "validation", 1),
        (["default/train/0000", "default/train/0001", "default/test/0000"], "train", 2),
        (["pets-a", "pets-b"], None, 2),
        (["training-of-tests", "more"], None, 2),
    ],
)
def test_splits_are_told_by_names_of_files(tmp_path: Path, names: list[str], split: str | None, rows: int) -> None:
    for name in names:
        table(tmp_path / "in" / f"{name}.parquet", image=struct(1))
    said = pack(tmp_path / "in", tmp_path / "out", *(["--split", split] if split else []))
    assert (said["samples"], said.get("split")) == (rows, split)


def test_of_several_splits_the_training_data_are_taken(tmp_path: Path) -> None:
    said = pack(TABLES / "hub", tmp_path / "out")
    assert (said["samples"], said["split"], said["left_out"]) == (5, "train", {"test/": 2})
    assert pack(TABLES / "hub", tmp_path / "all", "--split", "none")["samples"] == 7
    refused_split = dprune("pack", TABLES / "hub", "-o", tmp_path / "no", "--split", "val")
    refused_split.fails(3, "has no split 'val'", "test (2), train (5)")


# Columns


def test_images_of_every_type_of_column(tmp_path: Path) -> None:
    data = [image_bytes(i, (8, 8)) for i in range(3)]
    folder = tmp_path / "in"
    (folder / "files").mkdir(parents=True)
    for i, content in enumerate(data):
        (folder / "files" / f"n{i}.x.png").write_bytes(content)
    relative = [f"files/n{i}.x.png" for i in range(3)]
    mixed = [{"bytes": data[0], "path": "n0.x.png"}, {"bytes": None, "path": relative[1]},
             {"bytes": data[2], "path": "c:\\n2.x.png"}]  # fmt: skip
    columns = {
        "struct": pa.array(mixed, type=STRUCT),
        "large": pa.array(data, type=pa.large_binary()),
        "binary": pa.array(data, type=pa.binary()),
        "view": pa.array(data, type=pa.binary_view()),
        "bytes_alone": pa.array([{"bytes": one} for one in data], type=pa.struct([("bytes", pa.large_binary())])),
        "paths": pa.array(relative),
        "absolute": pa.array([str(folder / path) for path in relative], type=pa.large_string()),
    }
    for name, column in columns.items():
        called = "img_path" if name in ("paths", "absolute") else "picture"
        file = table(folder / f"{name}.parquet", id=[1, 2, 3], caption=["a", "b", "c"], **{called: column})
        said = pack(file, tmp_path / name)
        assert (said["samples"], said["classes"]) == (3, 0)
        named = ["n0_x", "n1_x", "n2_x"] if name in ("struct", "paths", "absolute") else [f"{i:08d}" for i in range(3)]
        assert members(tmp_path / name) == {f"{key}.png": content for key, content in zip(named, data)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b/c.jpeg", "d"], ["a", "c", "d"]),
        (["a.png", "b/a.png", "c.png"], None),
        (["a.png", None, "c.png"], None),
        (["a.png", "", "c.png"], None),
        ([".png", "__x__.png", "c.d.png"], ["_png", "__x__", "c_d"]),
    ],
)
def test_keys_are_names_of_files_where_each_row_has_its_own(
    tmp_path: Path, names: list[str | None], expected: list[str] | None
) -> None:
    rows = [{"bytes": image_bytes(i, (8, 8)), "path": name} for i, name in enumerate(names)]
    pack(table(tmp_path / "t.parquet", image=pa.array(rows, type=STRUCT)), tmp_path / "out")
    assert keys(tmp_path / "out") == (expected or ["00000000", "00000001", "00000002"])


def test_labels_of_every_type_of_column(tmp_path: Path) -> None:
    texts = pa.array(["eel", "cat", None, "cat"])
    columns = {
        "numbers": (pa.array([3, 0, None, -1]), [3, 0], ""),
        "unsigned": (pa.array([3, 0, None, 7], type=pa.uint8()), [3, 0, 7], ""),
        "bool": (pa.array([True, False, None, True]), [1, 0, 1], ""),
        "texts": (texts, [1, 0, 0], "cat\neel\n"),
        "categories": (texts.dictionary_encode(), [1, 0, 0], "cat\neel\n"),
        "nothing": (pa.nulls(4), [], ""),
    }
    for name, (column, expected, classes) in columns.items():
        file = table(tmp_path / f"{name}.parquet", group=3, image=struct(4), label=column)
        pack(file, tmp_path / name)
        assert labels(tmp_path / name) == expected
        written = tmp_path / name / "classes.txt"
        assert (written.read_text() if written.exists() else "") == classes
    pack(tmp_path / "texts.parquet", tmp_path / "none", "--label-column", NO_LABELS)
    assert labels(tmp_path / "none") == []


def test_all_splits_number_classes_alike(tmp_path: Path) -> None:
    table(tmp_path / "in" / "train.parquet", image=struct(2), label=["eel", "cat"])
    table(tmp_path / "in" / "val.parquet", image=struct(2), label=["dog", "eel"])
    table(tmp_path / "in" / "test.parquet", image=struct(2))
    for split, expected in (("train", [2, 0]), ("val", [1, 2])):
        pack(tmp_path / "in", tmp_path / split, "--split", split)
        assert labels(tmp_path / split) == expected
        assert (tmp_path / split / "classes.txt").read_text() == "cat\ndog\neel\n"
    table(tmp_path / "in" / "val.parquet", image=struct(2), label=["ant", "eel"])
    dprune("pack", tmp_path / "in", "-o", tmp_path / "train").fails(3, "--overwrite")


def test_columns_that_are_named(tmp_path: Path) -> None:
    file = table(tmp_path / "t.parquet", left=struct(2), right=struct(2), coarse_label=[5, 6], fine_label=[7, 8])
    refused(file).fails(3, "'left' and 'right' may be the images", "--image-column")
    pack(file, tmp_path / "a", "--image-column", "RIGHT")
    assert labels(tmp_path / "a") == [7, 8]
    pack(file, tmp_path / "b", "--image-column", "left", "--label-column", "coarse_label")
    assert labels(tmp_path / "b") == [5, 6]
    again = dprune("pack", file, "-o", tmp_path / "b", "--image-column", "left").fails(
        3, "coarse_label, not fine_label"
    )
    assert "label_column" in again.err
    options = json.loads((tmp_path / "b" / "manifest.json").read_text())["provenance"]["options"]
    assert (options["image_column"], options["label_column"]) == ("left", "coarse_label")


def test_columns_beside(tmp_path: Path) -> None:
    file = table(
        tmp_path / "t.parquet", image=struct(2), TEXT=["Grün", None], score=[0.5, float("nan")], tags=[[1], []]
    )
    pack(file, tmp_path / "out", "--beside", "text,tags,score")
    found = members(tmp_path / "out")
    assert json.loads(found["00000000.json"]) == {"TEXT": "Grün", "score": 0.5, "tags": [1]}
    assert json.loads(found["00000001.json"]) == {"TEXT": None, "score": None, "tags": []}
    refused(file, "--beside", "nix").fails(3, "has no column 'nix'", "TEXT (string)")


# Bad input


def test_columns_that_cannot_be_told(tmp_path: Path) -> None:
    file = table(tmp_path / "t.parquet", url=["http://x/a.jpg"], n=[1], emb=[[0.5]])
    refused(file).fails(3, "no column that is clearly of images", "url (string), n (int64), emb (list<", "img2dataset")
    refused(file, "--image-column", "n").fails(3, "the column 'n' holds int64, not images", "--image-column")
    refused(file, "--image-column", "pic").fails(3, "has no column 'pic'", "n (int64)")
    file = table(tmp_path / "l.parquet", image=struct(2), label=[0.0, 1.0], kind=["a", "b"])
    refused(file).fails(3, "the column 'label' holds double", "--label-column none")
    refused(file, "--label-column", "nix").fails(3, "has no column 'nix'", "kind (string)")
    assert pack(file, tmp_path / "out", "--label-column", "kind")["classes"] == 2
    refused(table(tmp_path / "e.parquet", image=struct(0))).fails(3, "has no rows")


def test_rows_without_an_image(tmp_path: Path) -> None:
    rows = [{"bytes": image_bytes(0, (8, 8)), "path": None}, {"bytes": None, "path": None}, None,
            {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": "http://x/a.png"},
            {"bytes": b"junk", "path": None}]  # fmt: skip
    file = table(tmp_path / "t.parquet", image=pa.array(rows, type=STRUCT), label=list(range(6)))
    for workers in (0, 2):
        said = dprune("pack", file, "-o", tmp_path / f"out{workers}", "--workers", workers, "--json").ok()
        assert json.loads(said.out)["unreadable"] == 5
        bad = [json.loads(line) for line in (tmp_path / f"out{workers}" / "bad.jsonl").read_text().splitlines()]
        assert [entry["key"] for entry in bad] == [f"{i:08d}" for i in range(1, 6)]
        for entry, word in zip(bad, ("is null", "is null", "missing: gone.png", "img2dataset", "cannot be decoded")):
            assert word in entry["reason"]
    refused(file, "--strict").fails(3, "'00000001' is null")
    nulls = table(tmp_path / "n.parquet", image=pa.array([None, None], type=STRUCT))
    refused(nulls).fails(3, "every image is unreadable, such as '00000000', which is null")


def test_files_that_do_not_agree(tmp_path: Path) -> None:
    table(tmp_path / "a" / "1.parquet", image=struct(2), label=[0, 1])
    two = table(tmp_path / "a" / "2.parquet", image=struct(2), label=["x", "y"])
    refused(tmp_path / "a").fails(3, "1.parquet has whole numbers as labels", "2.parquet texts", "pack them apart")
    table(two, image=struct(2), label=pa.nulls(2))
    pack(tmp_path / "a", tmp_path / "out")
    assert labels(tmp_path / "out") == [0, 1]
    table(two, image=struct(2), n=[1, 2])
    refused(tmp_path / "a").fails(3, "1.parquet has a column of labels", "2.parquet none", "--label-column, or none")
    table(two, other=[1, 2])
    refused(tmp_path / "a").fails(3, "2.parquet: has no column that is clearly of images")
    stated = pq.read_schema(TABLES / "hub/data/train-00000-of-00002.parquet").metadata
    for path, names in ((tmp_path / "a" / "1.parquet", b"cat"), (two, b"cow")):
        changed = {key: value.replace(b"cat", names) for key, value in stated.items()}
        pq.write_table(pa.table({"image": struct(2), "label": [0, 1]}).replace_schema_metadata(changed), path)
    refused(tmp_path / "a").fails(3, "name their classes differently")
    pq.write_table(pa.table({"image": struct(2), "label": [0, 3]}).replace_schema_metadata(stated), two)
    refused(two).fails(3, "the label 3", "3 classes")


def test_labels_that_no_reader_would_take(tmp_path: Path) -> None:
    most = (1 << 63) - 1
    column = pa.array([1, most], type=pa.uint64())
    pack(table(tmp_path / "most.parquet", image=struct(2), label=column), tmp_path / "most")
    assert labels(tmp_path / "most") == [1, most]
    column = pa.array([1, most + 1], type=pa.uint64())
    more = table(tmp_path / "more.parquet", image=struct(2), label=column)
    refused(more).fails(3, f"the label {most + 1}", "63 bits")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    whole = (TABLES / "hub/data/train-00000-of-00002.parquet").read_bytes()
    for data in (whole[:-1], whole[:1000], whole[:8] + whole[1000:], whole[:-9] + b"\xff" + whole[-8:]):
        path.write_bytes(data)
        refused(path).fails(3, "t.parquet: is damaged or cut short")
    path.write_bytes(b"")
    refused(path).fails(3, "neither a parquet nor an Arrow file")
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    refused(path).fails(3, "t.parquet: is damaged or cut short")
    shutil.copytree(TABLES / "saved", tmp_path / "saved")
    stream = tmp_path / "saved" / "data-00001-of-00002.arrow"
    cut = stream.read_bytes()
    for data in (cut[:-8], cut[:-9], cut[:300], cut[:20]):
        stream.write_bytes(data)
        refused(tmp_path / "saved").fails(3, "data-00001-of-00002.arrow: is damaged or cut short")
    stream.unlink()
    refused(tmp_path / "saved").fails(3, "data-00001-of-00002.arrow: no such file")
    state = tmp_path / "saved" / "state.json"
    state.write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    refused(tmp_path / "saved").fails(3, "state.json: does not list the files")
    dprune("pack", "https://x.org/t.parquet", "-o", tmp_path / "x").fails(3, "download it")
    os.mkfifo(tmp_path / "p.parquet")
    refused(tmp_path / "p.parquet").fails(3)


@pytest.mark.parametrize(
    "source", ["hub/data/train-00000-of-00002.parquet", "saved/data-00000-of-00002.arrow"], ids=["parquet", "arrow"]
)
def test_damage_of_any_kind_ends_with_one_sentence(tmp_path: Path, source: str) -> None:
    whole = (TABLES / source).read_bytes()
    path = tmp_path / f"t{Path(source).suffix}"
    # Of pyarrow, damage that it is not asked to look for ends the process.
    for name, data in damaged(whole, source):
        path.write_bytes(data)
        result = dprune("pack", path, "-o", tmp_path / "out", "--workers", 0, "--overwrite")
        assert result.code == 0 or len(result.fails(3).err) < 600, name


def test_a_stream_that_ends_between_batches_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    rows = pa.table({"image": struct(4)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)
        place = file.tell()
    whole = path.read_bytes()
    path.write_bytes(whole[:place])
    refused(path).fails(3, "cut short", "its end is missing")
    path.write_bytes(whole)
    assert pack(path, tmp_path / "out")["samples"] == 4


def test_arrow_files_are_no_streams_and_read_all_the_same(tmp_path: Path) -> None:
    rows = pa.table({"image": struct(5), "label": pa.array(list("abcab")).dictionary_encode()})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)
    pack(tmp_path / "t.arrow", tmp_path / "out", "--shard-size", 3)
    assert labels(tmp_path / "out") == [0, 1, 2, 0, 1]


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return found(name)

    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    refused(table(tmp_path / "t.parquet", image=struct(2))).fails(3, "pyarrow", "pip install 'dprune[parquet]'")


# Reading in order


def numbered(path: Path, count: int, group: int) -> Path:
    return table(path, group=group, image=struct(count, "i{:03d}.png"), label=list(range(count)))


def begins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where reading is begun from now on."""
    found, original = list[int](), TableSource.samples

    def samples(source: TableSource, begin: int) -> Any:
        found.append(begin)
        return original(source, begin)

    monkeypatch.setattr(TableSource, "samples", samples)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_each_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    numbered(tmp_path / "in" / "a.parquet", 10, group=4)
    numbered(tmp_path / "in" / "b.parquet", 3, group=4)
    begun = begins(monkeypatch)
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out", "--shard-size", 3, "--workers", workers).ok()
    assert begun == [0]
    assert labels(tmp_path / "out") == [*range(10), *range(3)]
    assert keys(tmp_path / "out") == [f"{row:08d}" for row in range(13)]


def test_single_samples_can_be_loaded(tmp_path: Path) -> None:
    numbered(tmp_path / "in" / "a.parquet", 10, group=4)
    numbered(tmp_path / "in" / "b.parquet", 9, group=2)
    source = TableSource([str(tmp_path / "in")], TableChoice())
    for number in (0, 1, 5, 3, 12, 18, 9, 10, 0):
        assert source.load(number).members[0][1] == image_bytes(number if number < 10 else number - 10, (8, 8))


def test_large_batches_are_cut(tmp_path: Path) -> None:
    numbered(tmp_path / "t.parquet", 700, group=700)
    pack(tmp_path / "t.parquet", tmp_path / "out")
    assert labels(tmp_path / "out") == list(range(700))
    assert keys(tmp_path / "out")[699] == "i699"


def test_row_groups_of_any_size_take_little_memory(tmp_path: Path) -> None:
    content = [np.random.default_rng(i).bytes(32 << 10) for i in range(1000)]
    rows = pa.table({"image": pa.array(content)})
    pq.write_table(rows, tmp_path / "t.parquet", use_dictionary=False, write_batch_size=16, compression="none")
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 1
    del rows
    before, held, found = pa.total_allocated_bytes(), list[int](), list[bytes]()
    for batch in open_table(str(tmp_path / "t.parquet")).batches(["image"]):
        held.append(pa.total_allocated_bytes() - before)
        found += batch.column("image").to_pylist()
    assert found == content
    assert max(held) < 20 << 20


def test_a_missing_shard_is_made_again(tmp_path: Path) -> None:
    numbered(tmp_path / "t.parquet", 10, group=4)
    pack(tmp_path / "t.parquet", tmp_path / "out", "--shard-size", 3)
    whole = members(tmp_path / "out")
    for number in (2, 0):
        (tmp_path / "out" / f"{number:06d}.tar").unlink()
        pack(tmp_path / "t.parquet", tmp_path / "out", "--shard-size", 3)
        assert members(tmp_path / "out") == whole


def test_an_interrupted_pack_goes_on_at_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(tmp_path / "t.parquet", 10, group=4)
    command = ["pack", path, "--shard-size", 3, "--workers", 0]
    dprune(*command, "-o", tmp_path / "whole").ok()
    asked = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked) > 8)
        dprune(*command, "-o", tmp_path / "out").fails(75)
    done = len(list((tmp_path / "out").glob("*.tar")))
    assert 0 < done < 4
    begun = begins(monkeypatch)
    dprune(*command, "-o", tmp_path / "out").ok()
    assert begun == [3 * done]
    assert members(tmp_path / "out") == members(tmp_path / "whole")


def test_whether_a_pack_is_up_to_date_is_told_by_footers(tmp_path: Path) -> None:
    path = numbered(tmp_path / "t.parquet", 10, group=4)
    pack(path, tmp_path / "out")
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(50) + data[150:])
    assert "up to date" in dprune("pack", path, "-o", tmp_path / "out").ok().err
    numbered(path, 10, group=5)
    dprune("pack", path, "-o", tmp_path / "out").fails(3, "--overwrite")


def test_names_of_classes_are_not_read_again_to_tell_what_is_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path / "t.parquet", image=struct(2, "t{}.png"), label=["eel", "cat"])
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "photos" / "dog" / "a.png").write_bytes(image_bytes(9, (8, 8)))
    pack([path, tmp_path / "photos"], tmp_path / "out")
    read, original = list[object](), TableFile.batches
    monkeypatch.setattr(TableFile, "batches", lambda *args: read.append(args) or original(*args))
    assert "up to date" in dprune("pack", path, tmp_path / "photos", "-o", tmp_path / "out").ok().err
    assert not read
    pack([path, tmp_path / "photos"], tmp_path / "again")
    assert read


def test_some_of_several_tables(tmp_path: Path) -> None:
    for number in range(12):
        table(tmp_path / f"{number}.parquet", image=struct(1))
    assert pack(tmp_path / "?.parquet", tmp_path / "one")["samples"] == 10
    assert pack(tmp_path / "[0-2].parquet", tmp_path / "range")["samples"] == 3
    (tmp_path / "list.txt").write_text(f"{tmp_path / '0.parquet'}\n")
    for unknown in (tmp_path / "{0..1}.parquet", f"@{tmp_path / 'list.txt'}"):
        dprune("pack", unknown, "-o", tmp_path / "no").fails(
            3, "0.parquet: is not a shard: name tables and .npz archives"
        )


def test_it_is_the_same_table_however_its_files_are_named(tmp_path: Path) -> None:
    data = TABLES / "hub" / "data"
    pack(TABLES / "hub", tmp_path / "out")
    shutil.copytree(data, tmp_path / "elsewhere")
    ways: list[list[object]] = [[data], [tmp_path / "elsewhere"], [data / "train-*"], sorted(data.glob("train-*"))]
    for way in ways:
        way = [f"{place}.parquet" if str(place).endswith("*") else place for place in way]
        assert "up to date" in dprune("pack", *way, "-o", tmp_path / "out").ok().err
    dprune("pack", *sorted(data.glob("train-*"))[::-1], "-o", tmp_path / "out").fails(3, "--overwrite")


def test_tables_beside_other_sources(tmp_path: Path) -> None:
    table(tmp_path / "t.parquet", image=struct(2, "t{}.png"), label=["eel", "cat"])
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "photos" / "dog" / "a.png").write_bytes(image_bytes(9, (8, 8)))
    pack([tmp_path / "photos", tmp_path / "t.parquet"], tmp_path / "out")
    assert keys(tmp_path / "out") == ["dog/a", "t0", "t1"]
    assert labels(tmp_path / "out") == [1, 2, 0]
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\neel\n"
    table(tmp_path / "photos" / "about.parquet", file_name=["dog/a.png"], caption=["a dog"])
    # This is what img2dataset's files look like.
    said = pack(tmp_path / "photos", tmp_path / "files")
    assert (said["samples"], said["left_out"]) == (1, {".parquet": 1})
    # And this a dataset of the hub, with pictures for its page.
    (tmp_path / "photos" / "about.parquet").write_bytes((tmp_path / "t.parquet").read_bytes())
    said = pack(tmp_path / "photos", tmp_path / "table")
    assert (said["samples"], said["left_out"]) == (2, {".png": 1})
    (tmp_path / "photos" / "about.parquet").write_bytes(b"junk")
    assert pack(tmp_path / "photos", tmp_path / "junk")["samples"] == 1
    (tmp_path / "photos" / "about.parquet").unlink()
    dprune("pack", tmp_path / "photos", "-o", tmp_path / "no", "--image-column", "x").fails(
        2, "--image-column", "tables"
    )
