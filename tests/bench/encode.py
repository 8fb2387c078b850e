r"""Speed and exactness of encoding in each precision, beside float32.

    python tests/bench/encode.py SHARDS [--vae FILE | --train-steps 400 --kind vq --codes 16384] [--count 256]
        [--precisions fp32,tf32,fp16,bf16] [--loops fp16] [--batch-size 128] [--device cuda]

Without --vae an autoencoder is trained first, by the command. Of each precision: images a second of the network on
images that are on the device already and of the whole loop of the command (from the first image to the last part), how
the latents differ from those of float32, and by how many dB that changes the reconstruction of the images, which tf32
decodes. Of codes: the share that differs, and by how much farther those codes are than float32's. Of moments:
the error of the means in units of the posterior's deviation, and the relative one of the deviations. Prints JSON.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from machine import command, forget_peak, name_of, peak_gib, timed

from dprune.decoding import CentreCrop
from dprune.encoding.encoder import Encoder
from dprune.encoding.job import open_encode
from dprune.encoding.settings import EncodeSettings
from dprune.formats.images import decode_image
from dprune.formats.publish import Output
from dprune.formats.shards import ShardReader, open_dataset
from dprune.models.pixels import centred, centred_psnr
from dprune.models.vae import load_vae
from dprune.precision import PRECISIONS, float32
from dprune.runtime import Silent


class Stopwatch(Silent):
    """Tells when the loop began."""

    began = 0.0

    def start(self, label, total, unit):
        self.began = time.perf_counter()


def photos(shards, count, size):
    """Return the first `count` images that differ, uint8 [n, 3, size, size]."""
    readers = [ShardReader(shard, shard.index()) for shard in open_dataset([str(shards)]).shards]
    files = dict.fromkeys(reader.image(row) for reader in readers for row in range(len(reader.index)))
    with ThreadPoolExecutor() as pool:
        crop = CentreCrop(size)
        return torch.stack(list(pool.map(lambda file: crop(decode_image(file)), islice(files, count))))


def train(given, folder):
    """Train an autoencoder and return its file."""
    codes = ("--codes", given.codes) if given.kind == "vq" else ()
    command("train-vae", given.shards, "--preset", given.preset, "--kind", given.kind, *codes, "--steps",
            given.train_steps, "--lr", given.lr, "--device", given.device, "-q", "-o", folder)  # fmt: skip
    return folder / "model.safetensors"


class Measured:
    """The latents of one precision, and what they cost."""

    def __init__(self, path, precision, images, given):
        forget_peak(given.device)
        vae, _ = load_vae(path, given.device)
        encoder = Encoder(vae, given.device, PRECISIONS[precision], flips=False)
        batches = images.split(given.batch_size)
        found = [encoder([batch]) for batch in batches]
        self.latents = [torch.cat(parts) for parts in zip(*found, strict=True)][:-1]
        first = batches[0].to(given.device)
        seconds = timed(lambda: encoder(list(first.split(16))), given.repeats, given.device)
        self.row = {"network_img_per_s": len(first) / seconds, "memory_gib": peak_gib(given.device)}
        assert all(bool(part[-1].all()) for part in found), f"{precision} has not range enough"

    def psnr(self, vae, targets):
        """How near the latents are brought to the images [n, 3, size, size] in [-1, 1], in dB."""
        with torch.inference_mode(), float32(tf32=True):
            return torch.cat([centred_psnr(vae.decode(part), target) for part, target in
                              zip(self._vectors(vae), targets.split(32), strict=True)])  # fmt: skip

    def _vectors(self, vae):
        for part in self.latents[0].split(32):
            yield vae.quantizer.look_up(part.long(), vae.config.latent_size) if part.ndim == 2 else part.float()


def loop_rate(path, precision, given):
    """Images a second of the command's loop."""
    settings = EncodeSettings(str(path), precision=precision, device=str(given.device), batch_size=given.batch_size,
                              workers=given.workers)  # fmt: skip
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        summary = open_encode([str(given.shards)], settings, Output(f"{folder}/latents")).run(watch)
        return summary["images"] / (time.perf_counter() - watch.began)


def of_codes(codes, expected, tokens, codebook):
    """How codes [N] differ from those of float32, given what they stand for, [N, c]."""
    other = codes != expected
    near, far = ((tokens[other] - codebook[some[other]]).square().sum(1) for some in (expected, codes))
    farther = ((far - near) / near.clamp(min=1e-12)).mean() if other.any() else torch.zeros(())
    return {"codes_differ": float(other.float().mean()), "farther_where_they_differ": float(farther)}


def of_moments(mean, logvar, mean32, logvar32):
    error = (mean.float() - mean32.float()).abs() / (logvar32.float() / 2).exp()
    spread = ((logvar.float() - logvar32.float()) / 2).abs()
    return {"mean_error": float(error.mean()), "mean_error_worst": float(error.max()),
            "deviation_error": float(spread.mean()), "deviation_error_worst": float(spread.max())}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--kind", default="vq")
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--count", type=int, default=256, help="images whose latents are compared")
    parser.add_argument("--precisions", default="fp32,tf32,fp16,bf16")
    parser.add_argument("--loops", default="fp32,tf32,fp16,bf16", help="of these the command's loop is timed too")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", type=torch.device, default="cuda")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.vae or train(given, Path(folder) / "vae")
        vae, file = load_vae(path, given.device)
        images = photos(given.shards, given.count, vae.config.image_size)
        targets = centred(images.to(given.device))
        exact = Measured(path, "fp32", images, given)
        expected = exact.psnr(vae, targets)
        with torch.inference_mode(), float32(tf32=False):
            encoded = torch.cat([vae.encode(part) for part in targets.split(32)])
        found = {"device": name_of(given.device), "images": len(images), "network": file.network, "runs": {}}
        for precision in given.precisions.split(","):
            run = exact if precision == "fp32" else Measured(path, precision, images, given)
            if vae.config.kind == "vq":
                codes = [some.latents[0].flatten().long() for some in (run, exact)]
                run.row |= of_codes(*codes, encoded.permute(0, 2, 3, 1).flatten(0, 2), vae.codebook)
            else:
                run.row |= of_moments(*run.latents, *exact.latents)
            psnr = run.psnr(vae, targets)
            change = psnr - expected
            run.row |= {"psnr": float(psnr.mean()), "psnr_change": float(change.mean()),
                        "psnr_change_worst": float(change.abs().max())}  # fmt: skip
            if precision in given.loops.split(","):
                run.row["loop_img_per_s"] = loop_rate(path, precision, given)
            found["runs"][precision] = run.row
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
