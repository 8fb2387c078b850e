"""Rates of `dprune embed`: decoding alone, the network alone, the loop and the whole command, as JSON.

    python tests/bench/embed.py photos/ --count 20000 --device cuda

On a GPU both ways of decoding are timed, Pillow's and the GPU's. The shards are made from a folder of JPEGs, repeated
to --count, and the weights are random, so that no hub is needed. The loop is stated as a share of the slower of its two
parts, which it cannot exceed; `start_s` is the command on a single photo.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dprune.decoding import PIECE, Images, cut, decoding
from dprune.embedding.backbones import Backbone
from dprune.embedding.device_decoding import DeviceDecoder, first_working, jpeg_decoders
from dprune.embedding.encoded import EncodedImages
from dprune.embedding.forward import Forward, load_backbone
from dprune.embedding.job import open_embed
from dprune.embedding.settings import EmbedOptions, EmbedSettings
from dprune.formats.publish import Output
from dprune.formats.shards import Dataset, open_dataset
from dprune.runtime import Silent, cpu_count


class Stopwatch(Silent):
    """Notes when the loop over images begins."""

    began = 0.0

    def start(self, label: str, total: int | None, unit: str) -> None:
        self.began = time.perf_counter()


def make_shards(photos: Path, folder: Path, count: int, per_shard: int) -> None:
    if folder.exists():
        return
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    images = [path.read_bytes() for path in found]
    folder.mkdir(parents=True)
    for begin in range(0, count, per_shard):
        with tarfile.open(folder / f"{begin // per_shard:06d}.tar", "w") as tar:
            for number in range(begin, min(begin + per_shard, count)):
                info = tarfile.TarInfo(f"{number:08d}.jpg")
                info.size = len(images[number % len(images)])
                tar.addfile(info, io.BytesIO(images[number % len(images)]))


def make_weights(name: str, path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    if not path.exists():
        save_file(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), path)


def time_decoding(dataset: Dataset, backbone: Backbone, way: str, args: argparse.Namespace) -> dict[str, float]:
    """Images a second from the shards to pixels; for the GPU's way also of what workers and the GPU do of it."""
    device = torch.device(args.device)
    if way == "cpu":
        return {"decode_img_s": time_reading(Images(dataset.shards, backbone.transform), dataset, args)[0]}
    assert backbone.geometry is not None
    images = EncodedImages(dataset.shards, backbone.transform)
    decoder = DeviceDecoder(images, backbone.geometry, device, first_working(jpeg_decoders(device)))
    read, batches = time_reading(images, dataset, args)
    decoder(batches[0])
    began = time.perf_counter()
    done = sum(len(decoder(batch)[0]) for batch in batches)
    alone = done / (time.perf_counter() - began)
    return {"read_img_s": read, "device_img_s": alone, "decode_img_s": min(read, alone)}


def time_reading(images: Images, dataset: Dataset, args: argparse.Namespace) -> tuple[float, list[list[Any]]]:
    """Images a second through the workers, and the first batches that they gave."""
    pieces = [
        piece for number, count in enumerate(dataset.counts) for piece in cut(number, range(count), args.batch_size)
    ]
    kept: list[Any] = []
    began, done = time.perf_counter(), 0
    with decoding(images, pieces, args.workers, Silent(), pin=type(images) is Images and args.device != "cpu") as read:
        for piece in read:
            done += len(piece.labels)
            if len(kept) < 4 * args.batch_size // PIECE:
                kept.append(piece)
    rate, each = done / (time.perf_counter() - began), max(1, args.batch_size // PIECE)
    return rate, [kept[begin : begin + each] for begin in range(0, len(kept), each)]


def time_forward(backbone: Backbone, settings: EmbedSettings, args: argparse.Namespace) -> float:
    device = torch.device(args.device)
    forward = Forward(backbone, device, getattr(torch, settings.precision), settings.given.normalize)
    shape = backbone.transform(Image.new("RGB", (32, 32))).shape
    # Not black, on which products are quicker than on photos.
    pieces = list(torch.randint(0, 256, (args.batch_size, *shape), dtype=torch.uint8).to(device).split(PIECE))
    outputs = [forward(pieces) for _ in range(args.warmup)]
    _wait(device)
    began = time.perf_counter()
    outputs += [forward(pieces) for _ in range(args.repeats)]
    _wait(device)
    assert all(torch.isfinite(output[0]).all() for output in outputs)
    return args.repeats * args.batch_size / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_loop(shards: Path, options: EmbedOptions, folder: Path) -> float:
    """Images a second from the first piece to the last part, without imports and loading of weights."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(dir=folder) as store:
        summary = open_embed([str(shards)], options, Output(f"{store}/features")).run(watch)
    return float(summary["images"] / (time.perf_counter() - watch.began))


def time_command(options: list[str], folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as store:
        command = [sys.executable, "-m", "dprune", "embed", *options, "-o", f"{store}/features", "-q"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - began


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEGs")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--name", default="vit_base_patch14_dinov2.lvd142m", help="network of timm")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=cpu_count())
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dprune-bench-embed")
    return parser.parse_args()


def main() -> None:
    args = parse()
    shards, single = args.work / f"shards-{args.count}", args.work / "shards-1"
    weights = args.work / f"{args.name}.safetensors"
    make_shards(args.photos, shards, args.count, args.per_shard)
    make_shards(args.photos, single, 1, 1)
    make_weights(args.name, weights)
    asked = EmbedOptions(f"timm:{args.name}", str(weights), args.image_size, device=args.device,
                         batch_size=args.batch_size, workers=args.workers)  # fmt: skip
    settings, dataset = asked.settings, open_dataset([str(shards)])
    backbone = load_backbone(settings)
    result: dict[str, Any] = {"images": args.count, "workers": args.workers, "batch_size": args.batch_size,
                              "model": args.name, "device": args.device, "precision": settings.precision}  # fmt: skip
    if args.device != "cpu":
        result["gpu"] = torch.cuda.get_device_name(args.device)
    result["forward_img_s"] = forward = time_forward(backbone, settings, args)
    for way in ("cpu",) if args.device == "cpu" else ("cpu", "gpu"):
        options = ["--model", f"timm:{args.name}", "--weights", str(weights), "--image-size", str(args.image_size),
                   "--device", args.device, "--batch-size", str(args.batch_size), "--workers", str(args.workers),
                   "--decode", way]  # fmt: skip
        found = time_decoding(dataset, backbone, way, args)
        found["loop_img_s"] = time_loop(shards, replace(asked, decode=way), args.work)
        found["loop_share_of_ceiling"] = found["loop_img_s"] / min(found["decode_img_s"], forward)
        found["start_s"] = time_command([str(single), *options], args.work)
        found["command_s"] = time_command([str(shards), *options], args.work)
        found["command_img_s"] = args.count / found["command_s"]
        result[f"decode_{way}"] = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}))


if __name__ == "__main__":
    main()
