"""Makes shards/ and embeddings/ with the code of img2dataset 1.47.0 and clip-retrieval 2.45.0, as DataComp uses them.

    PYTHONPATH=<img2dataset and clip_retrieval, unpacked> python make.py

Needs pyarrow, pandas, fsspec, webdataset and torch beside the two. Downloads are of data: URLs, and of one that leads
nowhere; images are resized by nobody, and embedded by their mean colours instead of a network. What the tests rest on
is the libraries' own: names, members, columns, statistics, and which row comes where.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import tempfile
from base64 import b64encode
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

HERE = Path(__file__).parent
ROWS, SHARDS, PARTITIONS = 6, 4, 2


def library(name: str) -> ModuleType:
    """A module of one of the two, without the packages' own imports and what would talk to others."""
    for absent in ("wandb", "exifread"):
        sys.modules.setdefault(absent, ModuleType(absent))
    parts = name.split(".")[:-1]
    for package in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            below = package.replace(".", "/")
            sys.modules[package].__path__ = [f"{place}/{below}" for place in sys.path if Path(place, below).is_dir()]
    return importlib.import_module(name)


def download(folder: Path) -> None:
    """What download_upstream.py of DataComp asks of img2dataset, for shards of six rows."""
    downloader, writer = library("img2dataset.downloader"), library("img2dataset.writer")

    def keep(stream: io.BytesIO, boxes: Any) -> tuple[Any, ...]:
        image = Image.open(stream).convert("RGB")
        if image.width < 8:
            return None, None, None, None, None, "image too small"
        packed = io.BytesIO()
        image.save(packed, "jpeg", quality=90)
        return packed.getvalue(), *image.size, *image.size, None

    draw = np.random.default_rng(14)
    with tempfile.TemporaryDirectory() as place:
        for shard in range(SHARDS):
            rows: dict[str, list[str]] = {"uid": [], "caption": [], "url": []}
            for row in range(ROWS):
                # The second cannot be downloaded, the fifth of the first shard is too small.
                pixels = draw.integers(0, 256, (1, 1, 3), dtype=np.uint8)
                size = 4 if (shard, row) == (0, 4) else 16
                packed = io.BytesIO()
                Image.fromarray(pixels).resize((size, size)).save(packed, "png")
                url = f"data:image/png;base64,{b64encode(packed.getvalue()).decode()}"
                rows["url"].append(url if row != 1 else "http://127.0.0.1:9/gone.png")
                rows["uid"].append(hashlib.md5(f"{shard}-{row}".encode()).hexdigest())
                rows["caption"].append(f"colour {row} of {shard}")
            listed = Path(place, f"{shard}.feather")
            with pa.OSFile(str(listed), "wb") as sink, pa.ipc.new_file(sink, pa.table(rows).schema) as file:
                file.write_table(pa.table(rows))
            downloader.Downloader(
                sample_writer_class=writer.WebDatasetSampleWriter, resizer=keep, thread_count=3, save_caption=True,
                extract_exif=False, output_folder=str(folder), column_list=["uid", "caption", "url"], timeout=5,
                number_sample_per_shard=10000, oom_shard_count=8, compute_hash="sha256", verify_hash_type=None,
                encode_format="jpg", retries=0, user_agent_token=None, disallowed_header_directives=None,
            )((shard, str(listed)))  # fmt: skip


def embed(shards: Path, folder: Path) -> None:
    """What `clip-retrieval inference --input_format webdataset --enable_metadata True` does, in two partitions."""
    names = ("reader", "writer", "runner", "logger")
    reader, writer, runner, logger = (library(f"clip_retrieval.clip_inference.{name}") for name in names)
    tars = sorted(map(str, shards.glob("*.tar")))

    class Statistics(logger.LoggerWriter):
        """Without the process that gathers them."""

        def start(self) -> None:
            self.total: dict[str, float] = {}

        def __call__(self, stats: dict[str, float]) -> None:
            self.total = {name: self.total.get(name, 0) + value for name, value in stats.items()}

        def end(self) -> None:
            self.write_stats(self.total, *fsspec.core.url_to_fs(self.stats_folder), False)

    def colours(batch: dict[str, Any]) -> dict[str, Any]:
        mean = batch["image_tensor"].float().mean((1, 2))
        unit = torch.cat([mean, 255 - mean], 1)
        unit /= unit.norm(dim=-1, keepdim=True)
        names = {"image_embs": unit.to(torch.float16).numpy(), "image_filename": batch["image_filename"]}
        return {**names, "text_embs": None, "text": None, "metadata": batch["metadata"]}

    runner = runner.Runner(
        reader_builder=lambda sampler: reader.WebdatasetReader(
            sampler, lambda image: torch.from_numpy(np.array(image)), None, tars, 3, 2, enable_text=False,
            enable_metadata=True,
        ),
        mapper_builder=lambda: colours,
        writer_builder=lambda number: writer.NumpyWriter(number, str(folder), False, True, True, PARTITIONS),
        logger_builder=lambda number: Statistics(number, str(folder / "stats")),
        output_partition_count=PARTITIONS,
    )  # fmt: skip
    for number in range(PARTITIONS):
        runner(number)


if __name__ == "__main__":
    for made in ("shards", "embeddings"):
        (HERE / made).mkdir()
    download(HERE / "shards")
    embed(HERE / "shards", HERE / "embeddings")
