"""What digests cost, as JSON on stdout: the same files with and without them, read and used in turns.

Shards are embedded as pixels when they are first seen and when they are known, features are read by rows and clustered,
latents are read and scored, and a transformer is loaded: reading alone in this
process, commands in their own. Times are of the processor and of all threads, so that other work on the machine does
not show, and threads that take digests beside each other do. Written files are told by the time that their digests take
of the whole.

    python tests/bench/digests.py
    python tests/bench/digests.py --samples 100000 --dimension 2048 --arch XL/2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from dprune.formats.digests import content_digest
from dprune.formats.features import open_features
from dprune.formats.images import encode_image
from dprune.formats.latents import KIND, SUMS, latent_tensors, open_latents, part_sums
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.provenance import METADATA_KEY, make_record
from dprune.formats.publish import publish_json
from dprune.formats.stores import Store
from dprune.formats.tar import END_MARKER, member_bytes
from dprune.formats.tensor_files import TensorFile
from dprune.models.architectures import parse_architecture
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import load_dit, network_metadata
from dprune.models.files import publish_model

CPU = torch.device("cpu")
ROWS = 4096


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--images", type=int, default=3000, help="in shards, of some 108 kB each")
    parser.add_argument("--side", type=int, default=16, help="of the latents")
    parser.add_argument("--scored", type=int, default=500, help="latents, which are scored by a nano/2 on two noises")
    parser.add_argument("-k", type=int, default=100, help="clusters")
    parser.add_argument("--arch", default="B/2", help="of the transformer that is loaded")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where files go; a folder that is removed")
    return parser.parse_args()


def without_digests(path: Path, copy: Path) -> Path:
    """Copy files as a dprune that knew no digests would have written them."""
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copy(path, copy)
    for file in [copy] if copy.is_file() else copy.glob("*.safetensors"):
        save_file(load_file(file), file, {METADATA_KEY: TensorFile.open(file).texts[METADATA_KEY]})
    return copy


def touched(path: Path) -> None:
    """Give files a new time, so that they are checked again."""
    for file in [path] if path.is_file() else path.glob("*.safetensors"):
        os.utime(file)


def spent() -> float:
    """Processor seconds of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of this process there is a finer clock.
    return time.process_time() + children.ru_utime + children.ru_stime


def run(*arguments: object) -> None:
    """Run a subcommand in a process of its own."""
    subprocess.run([sys.executable, "-m", "dprune", *map(str, arguments)], check=True)


def compared(path: Path, work: Callable[[Path], Any], repeats: int) -> dict[str, float]:
    """Median processor seconds of work on files with digests and without, by turns, and the share that digests add."""
    plain = path.with_name(f"{path.name}-plain")
    plain = plain if plain.exists() else without_digests(path, plain)
    times: dict[Path, list[float]] = {path: [], plain: []}
    for turn in range(2 * (repeats + 1)):
        # Whoever comes second finds the caches warm.
        at = (path, plain)[(turn + turn // 2) % 2]
        touched(at)
        began = spent()
        work(at)
        times[at].append(spent() - began)
    with_, without = (statistics.median(times[at][1:]) for at in (path, plain))
    return {"with_s": round(with_, 5), "without_s": round(without, 5), "more": round(with_ / max(without, 1e-9) - 1, 4)}


def written(path: Path) -> dict[str, float]:
    """Seconds that the digests of a file take, and that all of it takes to be written again."""
    data = path.read_bytes()
    began = time.perf_counter()
    content_digest(data)
    digests = time.perf_counter() - began
    with tempfile.TemporaryFile(dir=path.parent) as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        whole = time.perf_counter() - began
    return {"digests_s": round(digests, 5), "write_s": round(whole, 5), "more": round(digests / whole, 4)}


def filled(folder: Path, kind: str, options: dict[str, Any], make: Callable[[int], dict[str, Any]], n: int) -> Path:
    shards = tuple(f"{number:06d}.tar" for number in range(n))
    store = Store(folder, kind, shards, (), make_record("embed" if kind == "features" else "encode", options))
    store.publish_manifest()
    for number, shard in enumerate(shards):
        tensors = make(number)
        store.publish_part(shard, tensors, f"{number}", len(tensors["label"]), [])
    return folder


def of_shards(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    draw, path, cache = np.random.default_rng(0), work / "shards", work / "cache"
    os.environ["DPRUNE_CACHE"] = str(cache)
    images = [encode_image(Image.fromarray(draw.integers(96, 160, (240, 320, 3), np.uint8)), "jpg") for _ in range(16)]
    members = (member_bytes(f"{number:06d}.jpg", images[number % 16]) for number in range(args.images))
    (work / "raw.tar").write_bytes(b"".join([*members, END_MARKER]))
    run("pack", "-q", work / "raw.tar", "--shard-size", -(-args.images // args.shards), "-o", path)
    plain = Path(shutil.copytree(path, work / "shards-plain"))
    manifest = read_manifest(plain)
    listed = [{name: entry[name] for name in ("name", "count", "digest")} for entry in manifest["shards"]]
    publish_json(plain / MANIFEST, {**manifest, "shards": listed})

    def embed(path: Path) -> None:
        shutil.rmtree(work / "e", ignore_errors=True)
        run("embed", "-q", path, "--model", "pixels", "--image-size", 32, "--workers", 0, "-o", work / "e")

    def embed_first(path: Path) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        embed(path)

    return {
        "mib": round(sum(file.stat().st_size for file in path.glob("*.tar")) / 2**20, 1),
        "embed_first": compared(path, embed_first, args.repeats),
        "embed_known": compared(path, embed, args.repeats),
        "write": written(path / "000000.tar"),
    }


def of_features(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    draw, count = np.random.default_rng(0), args.samples // args.shards

    def make(number: int) -> dict[str, Any]:
        values = draw.standard_normal((count, args.dimension), np.float32) + number
        return {"features": values.astype(np.float16), "label": np.zeros(count, np.int64)}

    path = filled(work / "features", "features", {}, make, args.shards)

    def read(path: Path) -> None:
        features = open_features(path)
        for begin in range(0, features.shape[0], ROWS):
            features.rows(begin, min(begin + ROWS, features.shape[0]))

    def cluster(path: Path) -> None:
        made = work / "c.safetensors"
        made.unlink(missing_ok=True)
        run("cluster", "-q", path, "-k", args.k, "--iterations", 10, "-o", made)

    return {
        "mib": round(args.samples * args.dimension * 2 / 2**20, 1),
        "read": compared(path, read, args.repeats),
        "cluster": compared(path, cluster, args.repeats),
        "write": written(path / "000000.safetensors"),
    }


def of_latents(args: argparse.Namespace, work: Path, model: Path) -> dict[str, Any]:
    network = {"kind": "kl", "channels": 4, "size": args.side, "codes": 0, "image_size": 8 * args.side}
    draw, count = np.random.default_rng(0), args.scored // args.shards

    def make(number: int) -> dict[str, Any]:
        tensors: dict[str, Any] = {"label": np.zeros(count, np.int64), "valid": np.ones(count, bool)}
        for name, row in latent_tensors(network, flips=False).items():
            tensors[name] = draw.standard_normal((count, *row.shape), np.float32).astype(row.dtype)
        return {**tensors, SUMS["kl"]: part_sums(network, tensors)}

    path = filled(work / "latents", KIND, {"network": network, "flips": False}, make, args.shards)

    def read(path: Path) -> None:
        latents = open_latents(path)
        for name in latents.tensors:
            np.concatenate(latents.mapped(name))

    def score(path: Path) -> None:
        for made in work.glob("s*.npy"):
            made.unlink()
        run("score", "el2n", "-q", path, "--model", model, "--draws", 2, "--device", "cpu", "-o", work / "s.npy")

    size = count * args.shards * 4 * args.side**2 * 4
    return {
        "mib": round(size / 2**20, 1),
        "read": compared(path, read, args.repeats),
        "score": compared(path, score, args.repeats),
        "write": written(path / "000000.safetensors"),
    }


def transformer(path: Path, arch: str, side: int) -> Path:
    width, depth, heads, patch = parse_architecture(arch)
    config = DiTConfig(side, 4, patch, width, depth, heads, 10)
    model = DiT(config)
    network = network_metadata(config, torch.zeros(4), torch.ones(4), 10)
    publish_model(path, model.state_dict(), network, make_record("train-dit", {}))
    return path


def load(path: Path) -> float:
    """Load a transformer and look at every weight, as its first step does: the loader alone maps the file."""
    return sum(float(parameter.sum()) for parameter in load_dit(path, CPU).model.parameters())


def main() -> dict[str, Any]:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        model = transformer(work / "model", args.arch, args.side)
        loaded = {
            "mib": round(model.stat().st_size / 2**20, 1),
            "load": compared(model, load, args.repeats),
            "write": written(model),
        }
        scorer = transformer(work / "scorer", "nano/2", args.side)
        return {
            "shards": of_shards(args, work),
            "features": of_features(args, work),
            "latents": of_latents(args, work, scorer),
            "model": loaded,
        }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
