"""Folders that clip-retrieval wrote as features, and their rows on the way to samples of shards by keys.

The fixture is of clip-retrieval's own code, see tests/data/datacomp/make.py: the embedding of an image is its colour.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DATA, dprune, image_bytes, members
from PIL import Image
from safetensors.numpy import load_file

from dprune.formats.clip_retrieval import ClipFolder
from dprune.formats.features import ClipFeatures, open_features

SHARDS, EMBEDDINGS = DATA / "datacomp" / "shards", DATA / "datacomp" / "embeddings"
ROWS = 19


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDINGS, tmp_path / "clip"))


def embeddings() -> np.ndarray:
    return np.concatenate([np.load(EMBEDDINGS / "img_emb" / f"img_emb_{number}.npy") for number in (0, 1)])


def image_paths() -> list[str]:
    tables = [pq.read_table(EMBEDDINGS / "metadata" / f"metadata_{number}.parquet") for number in (0, 1)]
    return [key for table in tables for key in table["image_path"].to_pylist()]


def colour(image: bytes) -> np.ndarray:
    """The embedding of an image, as make.py has it."""
    mean = np.asarray(Image.open(io.BytesIO(image)), np.float32).mean((0, 1))
    unit = np.concatenate([mean, 255 - mean])
    return unit / np.linalg.norm(unit)


def write_parts(folder: Path, sizes: dict[str, int], *, flat: bool = False, metadata: bool = True) -> np.ndarray:
    """Parts by their numbers as text, with one row's number in each row, and their keys."""
    places = (folder, folder) if flat else (folder / "img_emb", folder / "metadata")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    first, rows = 0, []
    for number in sorted(sizes, key=int):
        values = np.arange(first, first + sizes[number], dtype=np.float16)[:, None].repeat(3, 1)
        np.save(places[0] / f"img_emb_{number}.npy", values)
        keys = [f"k{row:05d}" for row in range(first, first + sizes[number])]
        if metadata:
            pq.write_table(pa.table({"image_path": keys}), places[1] / f"metadata_{number}.parquet")
        rows.append(values)
        first += sizes[number]
    return np.concatenate(rows)


def test_rows_are_those_of_the_parts() -> None:
    features = open_features(EMBEDDINGS)
    assert isinstance(features, ClipFeatures)
    assert (features.shape, features.dtype, features.labels(), features.logits()) == ((ROWS, 6), "float16", None, None)
    np.testing.assert_array_equal(features.rows(0, ROWS), embeddings().astype(np.float32))
    np.testing.assert_array_equal(features.rows(7, 12), embeddings()[7:12].astype(np.float32))
    ids = np.array([0, 8, 9, 18])
    np.testing.assert_array_equal(features.take(ids), embeddings()[ids].astype(np.float32))
    assert features.take(ids).dtype == np.float32


def test_they_are_mapped_and_not_read() -> None:
    assert all(isinstance(part.values, np.memmap) for part in ClipFolder(EMBEDDINGS).parts)


def test_clusters_are_those_of_the_same_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", embeddings())
    for name, features in (("a", EMBEDDINGS), ("b", tmp_path / "x.npy")):
        dprune("cluster", features, "-k", 3, "-o", tmp_path / f"{name}.safetensors").ok()
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    for name in ("assignment", "distance", "centroids"):
        np.testing.assert_array_equal(one[name], other[name])
    again = dprune("cluster", EMBEDDINGS, "-k", 3, "-o", tmp_path / "a.safetensors").ok()
    assert "up to date" in again.err


def test_they_serve_wherever_features_do(tmp_path: Path, folder: Path) -> None:
    dprune("score", "random", EMBEDDINGS, "-o", tmp_path / "r.npy").ok()
    assert len(np.load(tmp_path / "r.npy")) == ROWS
    dprune("eval", EMBEDDINGS, folder, "--metrics", "kid", "-o", tmp_path / "m.json").ok()
    dprune("memorization", EMBEDDINGS, folder, "-o", tmp_path / "c.json").ok()
    assert json.loads((tmp_path / "c.json").read_text())["metrics"]["zero_count"] == ROWS
    dprune("select", "--order", "random", "--keep", "3", "--groups", EMBEDDINGS).fails(3, "no sample of it has a label")


def test_info() -> None:
    found = json.loads(dprune("info", EMBEDDINGS, "--json").ok().out)["files"][0]
    assert found["kind"] == "features"
    assert found["fingerprint"].startswith("clip:")
    assert found["content"]["keys"] == image_paths()[:3]
    assert {"image_path", "uid", "status"} <= set(found["content"]["columns"])
    assert [found["content"][name] for name in ("files", "samples", "dimension")] == [2, ROWS, 6]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("width", [1, 5])
def test_parts_are_numbered_and_not_named(tmp_path: Path, flat: bool, width: int) -> None:
    """By name part 10 would come before part 2."""
    wanted = write_parts(tmp_path, {f"{number:0{width}d}": number % 3 + 1 for number in range(12)}, flat=flat)
    features = open_features(tmp_path)
    np.testing.assert_array_equal(features.rows(0, len(wanted)), wanted)
    assert isinstance(features, ClipFeatures)
    keys = [key for part in range(12) for key in features.folder.keys(part)]
    assert keys == [f"k{row:05d}" for row in range(len(wanted))]


def test_features_beside_shards_are_features_to_those_who_ask_for_them(tmp_path: Path) -> None:
    both = Path(shutil.copytree(EMBEDDINGS, tmp_path / "both"))
    shutil.copytree(SHARDS, both, dirs_exist_ok=True)
    assert open_features(both).shape == (ROWS, 6)
    assert dprune("info", both).ok().out.decode().startswith(f"{both}: shards")


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("img_emb/img_emb_0.npy", "img_emb_0.npy is missing"),
        ("img_emb/img_emb_1.npy", "img_emb_1.npy is missing"),
        ("metadata/metadata_1.parquet", "metadata_1.parquet is missing"),
    ],
)
def test_a_part_that_is_missing(folder: Path, gone: str, words: str) -> None:
    (folder / gone).unlink()
    for command in (("cluster", folder, "-k", 2, "-o", folder / "c"), ("info", folder)):
        dprune(*command).fails(3, str(folder), words)


def test_a_last_part_that_is_missing_altogether_is_told_by_its_statistics(folder: Path) -> None:
    for path in ("img_emb/img_emb_1.npy", "metadata/metadata_1.parquet"):
        (folder / path).unlink()
    dprune("info", folder).fails(3, "img_emb_1.npy is missing")
    (folder / "stats" / "1.json").rename(folder / "stats" / "wip_1.json")
    dprune("info", folder).fails(3, "img_emb_1.npy is missing")
    (folder / "stats" / "wip_1.json").unlink()
    assert open_features(folder).shape[0] == 9


def test_a_gap_is_a_partition_without_samples_or_a_part_that_is_missing(tmp_path: Path) -> None:
    write_parts(tmp_path, {"0": 3, "2": 2})
    dprune("info", tmp_path).fails(3, "img_emb_1.npy is missing")
    (tmp_path / "stats").mkdir()
    # So write clip-retrieval's statistics of a partition of no shards, of which nothing else is written.
    (tmp_path / "stats" / "1.json").write_text("{}")
    assert open_features(tmp_path).shape == (5, 3)
    (tmp_path / "stats" / "1.json").write_text('{"sample_count": "many"}')
    dprune("info", tmp_path).fails(3, "stats/1.json", "sample_count")


def test_a_far_gap_is_found_at_once(tmp_path: Path) -> None:
    write_parts(tmp_path, {"0": 3, "999999999": 2})
    dprune("info", tmp_path).fails(3, "img_emb_1.npy is missing")


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    write_parts(tmp_path, {"0": 3, "1": 2})
    pq.write_table(pa.table({"image_path": ["a"]}), tmp_path / "metadata" / "metadata_1.parquet")
    dprune("info", tmp_path).fails(3, "metadata_1.parquet: has 1 rows, and img_emb_1.npy 2")
    write_parts(tmp_path, {"0": 3, "1": 2})
    np.save(tmp_path / "img_emb" / "img_emb_1.npy", np.zeros((2, 4), np.float16))
    dprune("info", tmp_path).fails(3, "img_emb_1.npy: has 4 dimensions and img_emb_0.npy 3")
    np.save(tmp_path / "img_emb" / "img_emb_1.npy", np.zeros((2, 3), np.int64))
    dprune("info", tmp_path).fails(3, "img_emb_1.npy: embeddings are floats of shape [n, d], not int64")
    np.save(tmp_path / "img_emb" / "img_emb_01.npy", np.zeros((2, 3), np.float16))
    dprune("info", tmp_path).fails(3, "have the same number 1")


@pytest.mark.parametrize("name", ["img_emb/img_emb_1.npy", "metadata/metadata_1.parquet", "stats/1.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_damaged_files(folder: Path, name: str, damage: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes({"cut": whole[:-20], "empty": b"", "other": b"\x89PNG\r\n\x1a\n" + bytes(99)}[damage])
    dprune("cluster", folder, "-k", 2, "-o", folder / "c").fails(3, Path(name).name)


def test_nothing_but_empty_parts(tmp_path: Path) -> None:
    write_parts(tmp_path, {"0": 0})
    dprune("info", tmp_path).fails(3, "holds no embeddings")


def test_without_metadata_the_features_open_and_the_keys_are_unknown(tmp_path: Path) -> None:
    write_parts(tmp_path, {"0": 3, "1": 2}, metadata=False)
    np.save(tmp_path / "s.npy", np.arange(5.0))
    dprune("cluster", tmp_path, "-k", 2, "-o", tmp_path / "c").ok()
    keep = ("select", tmp_path / "s.npy", "--keep", "2", "--shards", tmp_path)
    dprune(*keep, "--format", "keys").fails(3, str(tmp_path), "has no metadata_*.parquet")
    dprune(*keep).ok()


def test_without_pyarrow_the_features_open_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = open_features(EMBEDDINGS)
    for module in ("pyarrow", "pyarrow.parquet", "pyarrow.compute"):
        monkeypatch.setitem(sys.modules, module, None)
    features = open_features(EMBEDDINGS)
    assert (features.shape, features.fingerprint) == (known.shape, known.fingerprint)
    np.save(tmp_path / "s.npy", np.arange(ROWS))
    args = ("select", tmp_path / "s.npy", "--keep", "2", "--shards", EMBEDDINGS, "--format", "keys")
    dprune(*args).fails(3, "metadata_0.parquet", "pip install 'dprune[parquet]'")


def test_the_fingerprint_is_of_the_rows_and_not_of_the_network(folder: Path) -> None:
    known = open_features(folder).fingerprint
    for path in (folder / "img_emb").iterdir():
        np.save(path, np.load(path).repeat(2, 1).astype(np.float32))
    assert open_features(folder).fingerprint == known
    assert open_features(folder).as_parent()["digest"] != open_features(EMBEDDINGS).as_parent()["digest"]
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet")
    pq.write_table(table.take(list(range(8, -1, -1))), folder / "metadata" / "metadata_0.parquet")
    assert open_features(folder).fingerprint != known


@pytest.fixture
def chosen(tmp_path: Path) -> tuple[Path, Path]:
    """Scores of the rows, which carry their fingerprint, and the clusters behind them."""
    dprune("cluster", EMBEDDINGS, "-k", 3, "-o", tmp_path / "c.safetensors").ok()
    dprune("score", "cluster-distance", tmp_path / "c.safetensors", "-o", tmp_path / "s.npy").ok()
    return tmp_path / "s.npy", tmp_path / "c.safetensors"


def test_ids_of_rows_are_none_of_shards(chosen: tuple[Path, Path], tmp_path: Path) -> None:
    """The rows are in another order: to take one for the other would be to train on the wrong images."""
    dprune("select", chosen[0], "--keep", "0.5", "-o", tmp_path / "rows.npy").ok()
    words = ("another order than shards", "--format keys")
    dprune("pack", SHARDS, "--subset", tmp_path / "rows.npy", "-o", tmp_path / "p").fails(3, *words)
    dprune("select", chosen[0], "--keep", "0.5", "--shards", SHARDS).fails(3, *words)
    dprune("select", "--within", tmp_path / "rows.npy", "--shards", SHARDS).fails(3, *words)


@pytest.mark.parametrize("form", ["keys", "datacomp"])
def test_the_images_of_the_rows_that_were_kept_are_packed(chosen: tuple[Path, Path], tmp_path: Path, form: str) -> None:
    """From embeddings by other people's code to images: each packed image has the embedding of a row that was kept."""
    dprune("select", chosen[0], "--keep", "6", "-o", tmp_path / "rows.npy").ok()
    rows = np.load(tmp_path / "rows.npy")
    names = tmp_path / "names"
    args = ("select", chosen[0], "--keep", "6", "--shards", EMBEDDINGS, "--format", form, "-o", names)
    dprune(*args).ok()
    assert "up to date" in dprune(*args).ok().err
    dprune("pack", SHARDS, "--subset", names, "-o", tmp_path / "p").ok()
    packed = {name.removesuffix(".jpg"): data for name, data in members(tmp_path / "p").items() if ".jpg" in name}
    assert sorted(packed) == sorted(np.array(image_paths())[rows])
    for row in rows:
        np.testing.assert_allclose(colour(packed[image_paths()[row]]), embeddings()[row], atol=0.01)
    dprune("select", "--within", names, "--shards", SHARDS, "-o", tmp_path / "keep.npy").ok()
    dprune("pack", SHARDS, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "q").ok()
    assert members(tmp_path / "q") == members(tmp_path / "p")


def test_the_way_to_the_subset_is_remembered(chosen: tuple[Path, Path], tmp_path: Path) -> None:
    keep = ("select", chosen[0], "--keep", "6", "--shards", EMBEDDINGS, "--format", "keys")
    dprune(*keep, "-o", tmp_path / "keep.txt").ok()
    text = (tmp_path / "keep.txt").read_bytes()
    assert dprune(*keep).ok().out == text.split(b"\n", 1)[1]
    dprune("pack", SHARDS, "--subset", "-", "-o", tmp_path / "p", stdin=text).ok()
    chain = dprune("info", tmp_path / "p").ok().out.decode()
    assert "subset: select  format=keys  keep=6" in chain
    assert "score cluster-distance" in chain
    found = json.loads(dprune("info", tmp_path / "keep.txt", "--json").ok().out)["files"][0]
    assert (found["kind"], found["content"]["kept"], found["digests"]) == ("keys", 6, "whole")
    assert found["provenance"]["options"]["keep"] == "6"


def test_rows_come_back_from_keys_of_shards(tmp_path: Path) -> None:
    """A subset of shards, on its way to the rows of the embeddings."""
    np.save(tmp_path / "ids.npy", np.array([0, 4, 18]))
    args = ("--within", tmp_path / "ids.npy", "--shards", SHARDS, "--format", "keys", "-o", tmp_path / "keys.txt")
    dprune("select", *args).ok()
    dprune("select", "--within", tmp_path / "keys.txt", "--shards", EMBEDDINGS, "-o", tmp_path / "rows.npy").ok()
    rows = np.load(tmp_path / "rows.npy")
    assert [image_paths()[row] for row in rows] == ["000000000000", "000000010000", "000000030005"]
    dprune("memorization", EMBEDDINGS, EMBEDDINGS, "--subset", tmp_path / "rows.npy", "-o", tmp_path / "m.json").ok()


def test_metadata_without_keys(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(ROWS))
    args = ("select", tmp_path / "s.npy", "--keep", "2", "--shards", folder, "--format", "keys")
    for path in (folder / "metadata").iterdir():
        table = pq.read_table(path).drop_columns(["image_path"])
        pq.write_table(table, path)
    keys = dprune(*args).ok().out.decode().splitlines()
    assert keys == image_paths()[:2]  # from the column that img2dataset wrote
    for path in (folder / "metadata").iterdir():
        table = pq.read_table(path)
        pq.write_table(
            table.set_column(table.column_names.index("key"), "key", pa.array([None] * len(table), pa.string())), path
        )
    dprune(*args).fails(3, "metadata_0.parquet", "rows without a key")
    for path in (folder / "metadata").iterdir():
        pq.write_table(pq.read_table(path).select(["uid"]), path)
    dprune(*args).fails(3, "metadata_0.parquet", "no column 'image_path'")


def test_a_figure_needs_images(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(ROWS))
    args = ("select", tmp_path / "s.npy", "--keep", "2", "--shards", EMBEDDINGS, "--figure", tmp_path / "f.png")
    dprune(*args, "-o", tmp_path / "k.npy").fails(3, str(EMBEDDINGS), "no images")


def test_a_measurement_knows_rows_from_shards(chosen: tuple[Path, Path], tmp_path: Path) -> None:
    """A subset of the rows is one of the embeddings, and a subset of the shards is none."""
    dprune("select", chosen[0], "--keep", "0.5", "-o", tmp_path / "rows.npy").ok()
    dprune("select", "--within", tmp_path / "rows.npy", "--shards", EMBEDDINGS, "--format", "keys", "-o",
           tmp_path / "keys.txt").ok()  # fmt: skip
    dprune("select", "--within", tmp_path / "keys.txt", "--shards", SHARDS, "-o", tmp_path / "ids.npy").ok()
    for command in ("eval", "memorization"):
        args = (command, EMBEDDINGS, EMBEDDINGS, "-o", tmp_path / f"{command}.json", "--subset")
        dprune(*args, tmp_path / "rows.npy").ok()
        dprune(*args, tmp_path / "ids.npy").fails(3, "another order than shards")
    args = ("memorization", EMBEDDINGS, EMBEDDINGS, "--held-out", EMBEDDINGS, "-o", tmp_path / "m.json")
    dprune(*args).fails(3, "are the same dataset")


@pytest.mark.parametrize("folders", [("cats", "dogs.small"), ("cats",)])
def test_paths_of_images_are_the_keys_that_pack_makes_of_them(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """Rows of a folder of images are named by `str(path)` in the order of the paths (clip-retrieval's ImageDataset)."""
    photos = tmp_path / "my.photos"
    paths = [photos / folder / f"{number}.v1.png" for folder in folders for number in range(3)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    write_parts(tmp_path / "clip", {"0": len(paths)})
    names = pa.table({"image_path": list(map(str, paths))})
    pq.write_table(names, tmp_path / "clip" / "metadata" / "metadata_0.parquet")
    dprune("pack", photos, "-o", tmp_path / "shards").ok()
    np.save(tmp_path / "rows.npy", np.array([0, len(paths) - 1]))
    args = ("--within", tmp_path / "rows.npy", "--shards", tmp_path / "clip", "--format", "keys")
    dprune("select", *args, "-o", tmp_path / "keep.txt").ok()
    dprune("pack", tmp_path / "shards", "--subset", tmp_path / "keep.txt", "-o", tmp_path / "p").ok()
    kept = [paths[row].read_bytes() for row in np.load(tmp_path / "rows.npy")]
    assert sorted(data for name, data in members(tmp_path / "p").items() if name.endswith(".png")) == sorted(kept)
    (tmp_path / "keep.txt").write_text(f"{paths[0]}\n{tmp_path}/elsewhere/1.png\n")
    dprune("pack", tmp_path / "shards", "--subset", tmp_path / "keep.txt", "-o", tmp_path / "q").fails(3, "has the key")


def test_embeddings_are_no_images(tmp_path: Path) -> None:
    dprune("embed", EMBEDDINGS, "-o", tmp_path / "f").fails(3, "embeddings", "which dprune cluster takes")
    dprune("pack", EMBEDDINGS, "-o", tmp_path / "p").fails(3, "holds no images that can be read", ".npy")
