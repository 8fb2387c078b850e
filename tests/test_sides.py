"""Sides of `eval` and `memorization` that were never packed: folders and archives of images, read where they lie."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes
from PIL import Image

from dprune.decoding import PIECE
from dprune.errors import Interrupted, UsageError
from dprune.formats.features import open_features
from dprune.formats.shards import Dataset
from dprune.measuring.making import Embedding
from dprune.measuring.side_paths import SidePath
from dprune.measuring.sources import open_sources
from dprune.packing.unpacked import HELD, PORTION, as_dataset, open_images
from dprune.runtime import Silent

PIXELS = ("--model", "pixels", "--image-size", 4, "--workers", 0)
PLAIN = Embedding("pixels", "inception", image_size=4)
CLASSES = ("cat", "dog", "owl")


def folder(place: Path, count: int = 12, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Images in class folders, in formats that shards hold and in those that they do not."""
    for number in range(count):
        path = place / (classes[number % len(classes)] if classes else "") / f"{number:03d}.x"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = image_bytes(1000 * seed + number)
        if number % 4 == 3:
            Image.open(io.BytesIO(data)).save(path.with_suffix(".bmp"))
        else:
            path.with_suffix(".png").write_bytes(data)
    return place


def zipped(place: Path) -> Path:
    with zipfile.ZipFile(place.with_suffix(".zip"), "w") as archive:
        for path in sorted(place.rglob("*.*")):
            archive.write(path, path.relative_to(place))
    return place.with_suffix(".zip")


def dataset(path: Path) -> Dataset:
    return as_dataset(str(path), open_images(str(path)))


def measured(output: Path, *args: object) -> dict[str, Any]:
    dprune("eval", *args, "-o", output).ok()
    found: dict[str, Any] = json.loads(output.read_text())
    return found


# What is measured is what packing and embedding would give.


def tabled(place: Path, *, names: bool = False) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(place.rglob("*.*"))
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
        "label": [path.parent.name if names else CLASSES.index(path.parent.name) for path in files],
    }
    pq.write_table(pa.table(rows), place.with_suffix(".parquet"), row_group_size=5)
    return place.with_suffix(".parquet")


def archived(place: Path) -> Path:
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(place.rglob("*.*"))])
    np.savez(place.with_suffix(".npz"), pixels, np.arange(len(pixels)) % 3)
    return place.with_suffix(".npz")


@pytest.mark.parametrize(
    "make", [lambda place: place, zipped, tabled, archived], ids=["folder", "zip", "parquet", "npz"]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_packed_images(tmp_path: Path, make: Any, workers: int) -> None:
    place = make(folder(tmp_path / "photos", 40))
    dprune("pack", place, "-o", tmp_path / "shards").ok()
    dprune("embed", tmp_path / "shards", *PIXELS, "-o", tmp_path / "store").ok()
    embedding = replace(PLAIN, workers=workers)
    source = open_sources({"generated": SidePath.of(str(place))}, embedding)["generated"]
    found, expected = source.open(Silent()), open_features(tmp_path / "store")
    np.testing.assert_array_equal(found.rows(0, 40), expected.rows(0, 40))
    np.testing.assert_array_equal(found.labels(), expected.labels())
    assert (source.name, source.model) == (str(place), "pixels")


def test_every_kind_gives_the_same_numbers(tmp_path: Path) -> None:
    generated, reference = folder(tmp_path / "g"), folder(tmp_path / "r", 20, seed=1)
    for name in ("g", "r"):
        dprune("pack", tmp_path / name, "-o", tmp_path / f"{name}-shards").ok()
        dprune("embed", tmp_path / f"{name}-shards", *PIXELS, "-o", tmp_path / f"{name}-features").ok()
    kinds = [
        (generated, reference), (zipped(generated), zipped(reference)), (tmp_path / "g-shards", reference),
        (generated, tmp_path / "r-features"),
    ]  # fmt: skip
    found = []
    for number, pair in enumerate(kinds):
        result = measured(tmp_path / f"{number}.json", *pair, *PIXELS, "--metrics", "fid,prdc,kid")
        found.append({key: value for key, value in result["metrics"].items() if not key.endswith("_se")})
    assert found == found[:1] * len(kinds)
    assert found[0]["frechet_distance"] > 0


def test_images_as_samples_held_out(tmp_path: Path) -> None:
    place = [folder(tmp_path / name, 12, seed) for seed, name in enumerate(("g", "r", "v"))]
    result = measured(tmp_path / "m.json", *place[:2], "--held-out", zipped(place[2]), *PIXELS, "--metrics", "fid")
    assert [side["role"] for side in result["inputs"]] == ["generated", "reference", "held_out"]
    assert result["metrics"]["frechet_distance_ratio"] > 0


def test_images_in_memorization_and_its_picture(tmp_path: Path) -> None:
    generated, train = folder(tmp_path / "g"), folder(tmp_path / "t", 20, seed=1)
    shutil.copy(train / "cat" / "000.png", generated / "dog" / "copy.png")
    args = (*PIXELS, "--jackknife", 0, "--figure-count", 3)
    dprune(
        "memorization", generated, zipped(train), *args, "--figure", tmp_path / "f.png", "-o", tmp_path / "m.json"
    ).ok()
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]["zero_count"] == 1
    dprune("memorization", generated, train, *args, "--figure", tmp_path / "other.png",
           "--generated-shards", zipped(generated), "-o", tmp_path / "n.json").fails(3, "g.zip")  # fmt: skip
    dprune("memorization", generated, train, *args, "--figure", tmp_path / "other.png",
           "--generated-shards", generated, "-o", tmp_path / "n.json").ok()  # fmt: skip
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("f.png", "other.png")))


# What a side is called by.


def test_equal_folders_are_one_dataset_whatever_they_are_called(tmp_path: Path) -> None:
    first = folder(tmp_path / "one")
    shutil.copytree(first, tmp_path / "deep" / "two")
    assert dataset(first).fingerprint == dataset(tmp_path / "deep" / "two").fingerprint
    assert dataset(first).fingerprint != dataset(folder(tmp_path / "three", seed=3)).fingerprint


def test_no_path_gets_into_the_result(tmp_path: Path) -> None:
    measured(tmp_path / "m.json", folder(tmp_path / "one"), folder(tmp_path / "two", seed=1), *PIXELS)
    assert str(tmp_path) not in (tmp_path / "m.json").read_text()


def test_images_drawn_anew_under_the_same_names_and_sizes_are_others(tmp_path: Path) -> None:
    """As uncompressed ones are; a result that is up to date would be that of images long gone."""
    generated, reference = tmp_path / "g", folder(tmp_path / "r", seed=5)
    generated.mkdir()

    def draw(seed: int) -> Any:
        for number in range(6):
            Image.open(io.BytesIO(image_bytes(seed + number))).save(generated / f"{number}.bmp")
        return dprune("eval", generated, reference, *PIXELS, "--metrics", "fid", "-o", tmp_path / "m.json")

    draw(0).ok()
    assert "is up to date" in draw(0).ok().err
    draw(50).fails(3, "was made differently", "--overwrite")


class Counting(Silent):
    """Counts images, and asks to stop after some."""

    def __init__(self, most: int = 1000) -> None:
        self.seen, self._most = 0, most

    def advance(self, count: int = 1) -> None:
        self.seen += count

    def stop_requested(self) -> bool:
        return self.seen >= self._most


def test_features_that_were_stopped_go_on_and_those_that_are_whole_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dprune.packing.unpacked.PORTION", 5)
    source = open_sources({"generated": SidePath.of(str(folder(tmp_path / "g")))}, PLAIN)["generated"]
    with pytest.raises(Interrupted):
        source.open(Counting(7))
    monitor = Counting()
    whole = source.open(monitor).rows(0, 12)
    assert monitor.seen == 2, "but for ten, of which it knew when it stopped"
    monitor = Counting()
    np.testing.assert_array_equal(source.open(monitor).rows(0, 12), whole)
    assert monitor.seen == 0


def test_a_time_limit_ends_with_75_and_another_run_is_whole(tmp_path: Path) -> None:
    places = folder(tmp_path / "g", 40), folder(tmp_path / "r", seed=1)
    dprune("eval", *places, *PIXELS, "--stop-after", "0s", "-o", tmp_path / "m.json").fails(75)
    dprune("eval", *places, *PIXELS, "-o", tmp_path / "m.json").ok()


def test_a_reader_holds_what_is_decoded_together(tmp_path: Path) -> None:
    """Or images of a table would be come to from the front again after each label."""
    assert HELD >= PIECE
    source, loaded = open_images(str(folder(tmp_path / "g", 40))), list[int]()
    load = source.load
    source.load = lambda number: (loaded.append(number), load(number))[1]  # type: ignore[method-assign]
    reader = as_dataset("g", source).shards[0].reader()
    loaded.clear()
    for row in range(PIECE):
        reader.label(row)
    for row in range(PIECE):
        reader.image(row)
    assert loaded == list(range(PIECE))


def test_a_dry_run_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path / "cache"))
    done = dprune(
        "eval",
        folder(tmp_path / "g"),
        folder(tmp_path / "r", seed=1),
        *PIXELS,
        "--dry-run",
        "--json",
        "-o",
        tmp_path / "m",
    )
    assert set(json.loads(done.ok().out)["provenance"]["parents"]) == {"generated", "reference"}
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "m").exists()


def test_portions_cover_a_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PORTION % 256 == 0, "batches never cross portions"
    monkeypatch.setattr("dprune.packing.unpacked.PORTION", 5)
    found = dataset(folder(tmp_path / "g"))
    assert found.counts == [5, 5, 2]
    readers = [shard.reader() for shard in found.shards]
    keys = [reader.key(row) for reader, count in zip(readers, found.counts, strict=True) for row in range(count)]
    assert keys == list(open_images(str(tmp_path / "g")).keys())
    labels = [reader.label(row) for reader, count in zip(readers, found.counts, strict=True) for row in range(count)]
    assert labels == sorted(labels)
    assert set(labels) == {0, 1, 2}


# Unreadable images, splits, and classes.


def test_unreadable_images_are_counted(tmp_path: Path) -> None:
    generated = folder(tmp_path / "g")
    (generated / "cat" / "broken.png").write_bytes(b"junk")
    (generated / "notes.txt").write_text("x")
    done = dprune("eval", generated, folder(tmp_path / "r", seed=1), *PIXELS, "-o", tmp_path / "m.json").ok()
    assert "left out: 1 .txt" in done.err
    assert "1 of the generated samples have features that are not finite" in done.err
    inputs = json.loads((tmp_path / "m.json").read_text())["inputs"]
    assert [(side["count"], side["dropped"]) for side in inputs] == [(12, 1), (12, 0)]


def fails(tmp_path: Path, code: int, generated: object, *words: str) -> Result:
    reference = folder(tmp_path / "r", seed=1)
    return dprune("eval", generated, reference, *PIXELS, "-o", tmp_path / "m.json").fails(code, *words)


def test_what_holds_no_images_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    fails(tmp_path, 3, tmp_path / "bare", "bare", "holds no images")
    (tmp_path / "junk.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    fails(tmp_path, 3, tmp_path / "junk.zip", "junk.zip")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"junk")
    fails(tmp_path, 3, tmp_path / "bad", f"{tmp_path}/bad", "1 usable generated samples are too few")


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "stats.pkl").write_bytes(pickle.dumps({"mu": [0.0], "sigma": [[1.0]]}))
    fails(tmp_path, 3, tmp_path / "stats.pkl", "stats.pkl", "is a pickle", "np.savez")


def test_one_image_is_no_side(tmp_path: Path) -> None:
    fails(tmp_path, 3, folder(tmp_path / "g") / "cat" / "000.png", "000.png", "is one image", "the folder it lies in")


def test_options_for_shards_need_shards(tmp_path: Path) -> None:
    places = folder(tmp_path / "g"), folder(tmp_path / "r")
    done = dprune("eval", *places, *PIXELS, "--label-member", "y.txt", "-o", tmp_path / "m.json")
    done.fails(2, "--label-member", "are for shards, and no side is")


def test_labels_of_folders_count_where_both_sides_have_the_same_names(tmp_path: Path) -> None:
    """Folders may be batches as well, and what is numbered otherwise must not be compared."""
    paths = {"generated": folder(tmp_path / "g"), "reference": folder(tmp_path / "r")}
    others = folder(tmp_path / "o", classes=("a", "b"))

    def labelled(**sides: Path) -> dict[str, bool]:
        opened = open_sources({role: SidePath.of(str(path)) for role, path in sides.items()}, PLAIN)
        return {role: source.open(Silent()).labels() is not None for role, source in opened.items()}

    assert labelled(**paths) == {"generated": True, "reference": True}
    assert labelled(generated=others, reference=paths["reference"]) == {"generated": False, "reference": False}
    dprune("pack", paths["reference"], "-o", tmp_path / "shards").ok()
    assert labelled(generated=paths["generated"], reference=tmp_path / "shards") == {
        "generated": True,
        "reference": True,
    }
    assert labelled(generated=others, reference=tmp_path / "shards") == {"generated": False, "reference": True}
    dprune("embed", tmp_path / "shards", *PIXELS, "-o", tmp_path / "store").ok()
    assert labelled(generated=paths["generated"], reference=tmp_path / "store")["generated"] is False


def test_of_several_splits_the_training_data_are_taken_and_it_is_said_every_time(tmp_path: Path) -> None:
    reference = tmp_path / "r"
    folder(reference / "train", 14, seed=1)
    folder(reference / "val", 12, seed=2)
    for name in ("m.json", "n.json"):
        done = dprune(
            "eval", folder(tmp_path / "g"), reference, *PIXELS, "--metrics", "fid", "-o", tmp_path / name
        ).ok()
        assert "r: split train; left out: 12 val/." in done.err
    assert json.loads((tmp_path / "m.json").read_text())["inputs"][1]["count"] == 14


def test_names_in_a_table_are_those_of_folders_and_are_read_when_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, other = tabled(folder(tmp_path / "g"), names=True), folder(tmp_path / "r", seed=1)
    sides = {"generated": SidePath.of(str(table)), "reference": SidePath.of(str(other))}
    opened = open_sources(sides, PLAIN)
    assert all(source.open(Silent()).labels() is not None for source in opened.values())
    with monkeypatch.context() as patch:
        patch.setattr("dprune.packing.tables.TableSource._column", lambda *args: pytest.fail("a column is read"))
        dprune("eval", table, other, *PIXELS, "--dry-run", "-o", tmp_path / "m.json").ok()


def test_a_folder_of_several_splits_is_one_sentence(tmp_path: Path) -> None:
    place = folder(tmp_path / "g", classes=("test", "val"))
    with pytest.raises(UsageError, match=r"test \(6\), val \(6\): .*options of dprune pack, and its shards"):
        open_images(str(place))
