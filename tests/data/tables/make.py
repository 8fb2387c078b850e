"""Write the tables beside this file: datasets 5.2.0 and pyarrow 26, `python tests/data/tables/make.py`.

Seven images of 8 x 8 pixels with three classes, as Hugging Face's library exports, saves and caches them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HERE = Path(__file__).parent
os.environ["HF_DATASETS_CACHE"] = str(HERE / "unused")

import datasets  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])})


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def rows(begin: int, end: int) -> datasets.Dataset:
    numbers = range(begin, end)
    table = {"image": [image(i) for i in numbers], "label": [i % 3 for i in numbers]}
    return datasets.Dataset.from_dict(table, features=FEATURES)


for folder in ("hub", "saved", "dict", "cached"):
    shutil.rmtree(HERE / folder, ignore_errors=True)

train, test = rows(0, 5), rows(5, 7)
(HERE / "hub" / "data").mkdir(parents=True)
for number in range(2):
    part = train.shard(2, number, contiguous=True)
    part.to_parquet(HERE / "hub" / "data" / f"train-{number:05d}-of-00002.parquet")
test.to_parquet(HERE / "hub" / "data" / "test-00000-of-00001.parquet")
train.save_to_disk(HERE / "saved", num_shards=2)
datasets.DatasetDict({"train": train, "test": test}).save_to_disk(HERE / "dict")

cached = datasets.load_dataset(str(HERE / "hub"), cache_dir=str(HERE / "cached"))
# What map leaves beside a dataset is another one, of images turned around.
cached["train"].map(lambda row: {"image": row["image"].rotate(180)})
for lock in (HERE / "cached").rglob("*.lock"):
    lock.unlink()
shutil.rmtree(HERE / "unused", ignore_errors=True)
