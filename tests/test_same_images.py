"""The same images as people have them: a zip, a folder with a table of labels, parquet, .npz and shards."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import dprune, image_bytes, members, write_tar
from PIL import Image

from dprune.formats.features import open_features

CLASSES = ["cat", "dog", "owl"]
JPEGS = [image_bytes(n, suffix="jpg") for n in range(30)]
LABELS = [n // 10 for n in range(30)]
KEPT = np.array([1, 4, 5, 17, 29])


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def zipped(folder: Path) -> list[object]:
    with zipfile.ZipFile(folder / "classes.zip", "w") as archive:
        for n, (data, label) in enumerate(zip(JPEGS, LABELS, strict=True)):
            archive.writestr(f"{CLASSES[label]}/{n:02d}.jpg", data)
    return [folder / "classes.zip"]


def listed(folder: Path) -> list[object]:
    (folder / "flat").mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for n, (data, label) in enumerate(zip(JPEGS, LABELS, strict=True)):
            (folder / "flat" / f"{n:02d}.jpg").write_bytes(data)
            rows.writerow([f"{n:02d}.jpg", CLASSES[label]])
    return [folder / "flat", "--labels", folder / "labels.csv"]


def tabled(folder: Path) -> list[object]:
    images = [{"bytes": data, "path": f"{n:02d}.jpg"} for n, data in enumerate(JPEGS)]
    known = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    table = pa.table({"image": images, "label": pa.array(LABELS, pa.int64())})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": known}})})
    pq.write_table(table, folder / "train.parquet", row_group_size=7)
    return [folder / "train.parquet"]


def stacked(folder: Path) -> list[object]:
    np.savez(folder / "images.npz", np.stack([pixels(data) for data in JPEGS]), np.array(LABELS))
    return [folder / "images.npz"]


def sharded(folder: Path) -> list[object]:
    for shard in range(3):
        chosen = range(10 * shard, 10 * shard + 10)
        names = [(f"{n:02d}.{suffix}", data) for n in chosen
                 for suffix, data in (("jpg", JPEGS[n]), ("cls", str(LABELS[n]).encode()))]  # fmt: skip
        write_tar(folder / "shards" / f"part-{shard}.tar", names)
    return [folder / "shards"]


@pytest.mark.parametrize("laid_out", [zipped, listed, tabled, stacked, sharded])
def test_features_and_subsets_do_not_depend_on_the_container(laid_out: Any, tmp_path: Path) -> None:
    dprune("pack", *laid_out(tmp_path), "-o", tmp_path / "packed", "--shard-size", 12).ok()
    dprune("embed", tmp_path / "packed", "--model", "pixels", "--image-size", 8, "--workers", 0, "-o",
           tmp_path / "features").ok()  # fmt: skip
    dprune("pack", *sharded(tmp_path.joinpath("plain")), "-o", tmp_path / "reference", "--shard-size", 12).ok()
    dprune("embed", tmp_path / "reference", "--model", "pixels", "--image-size", 8, "--workers", 0, "-o",
           tmp_path / "expected").ok()  # fmt: skip
    found, expected = open_features(tmp_path / "features"), open_features(tmp_path / "expected")
    assert found.rows(0, 30).tobytes() == expected.rows(0, 30).tobytes()
    assert np.array_equal(found.labels(), LABELS)

    np.save(tmp_path / "keep.npy", KEPT)
    dprune("pack", tmp_path / "packed", "--subset", tmp_path / "keep.npy", "-o", tmp_path / "kept").ok()
    kept = members(tmp_path / "kept")
    images = [data for name, data in kept.items() if not name.endswith(".cls")]
    assert [int(data) for name, data in kept.items() if name.endswith(".cls")] == [LABELS[n] for n in KEPT]
    for data, n in zip(images, KEPT, strict=True):
        assert np.array_equal(pixels(data), pixels(JPEGS[n]))
