r"""What makes a study cheaper: the Fréchet distances that trainings reach in equal seconds of a device.

    python tests/bench/study.py IMAGES.zip RESNET10T.safetensors [--seconds 20] [--seeds 3] [--arch S/1] [--batch 256]
        [--variants plain,muon] [--vae FILE] [--device cuda]

IMAGES, of 32 pixels in ten class folders, are packed, an autoencoder of 8 x 8 x 16 latents is trained on them, and
they are encoded. The time of a step of each variant is measured, compilation left out, and each gets as many steps as
fit into the seconds. Images are drawn from the same noise, without guidance; the distance is that of their features,
by the trained network that is given, to those of all IMAGES. Trainings go through the command itself. Prints JSON.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from machine import command, name_of
from PIL import Image

from dprune.embedding.forward import Forward, load_backbone
from dprune.embedding.settings import EmbedOptions
from dprune.metrics.frechet import Moments, frechet_distance
from dprune.models.dit_files import load_dit
from dprune.models.pixels import to_pixels
from dprune.models.vae import load_vae
from dprune.precision import float32
from dprune.sampling.drawing import Sampler
from dprune.sampling.settings import SampleOptions

SIDE, CLASSES = 64, 10
VARIANTS = {"plain": (), "muon": ("--optimizer", "muon")}


def prepare(given, folder):
    """Pack, train the autoencoder unless it is given, and encode."""
    shards, vae = folder / "shards", Path(given.vae) if given.vae else folder / "vae" / "model.safetensors"
    command("pack", given.images, "-q", "-o", shards)
    if not given.vae:
        command("train-vae", shards, "--preset", "tiny", "--kind", "kl", "--width", 24, "--latent-channels", 16,
                "--kl-weight", "1e-5", "--perceptual", "none", "--steps", given.vae_steps, "--batch-size", 32, "--flip",
                "--device", given.device, "-q", "-o", folder / "vae")  # fmt: skip
    command("encode", shards, "--vae", vae, "--device", given.device, "-q", "-o", folder / "latents")
    return folder / "latents", vae


def train(given, store, folder, steps, seed, options):
    """Train, and return the lines of the log that tell a rate."""
    rate = given.muon_lr if "muon" in options else given.lr
    command("train-dit", store, "--arch", given.arch, "--batch-size", given.batch, "--steps", steps, "--seed", seed,
            "--lr", rate, "--device", given.device, "-q", "-o", folder, "--overwrite", *given.more.split(),
            *options)  # fmt: skip
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "img_per_s" in line]


def step_of(given, store, folder, options):
    """Measure the seconds of a step, compilation left out."""
    every = max(1, given.rate_steps // 10)
    lines = train(given, store, folder, given.rate_steps, 0, (*options, "--log-every", every))
    return given.batch / statistics.median(line["img_per_s"] for line in lines[2:-1])


def plan(given, store, folder, name):
    """Find out how many steps of a variant fit into the seconds."""
    seconds = step_of(given, store, folder, VARIANTS[name])
    return {"step": seconds, "steps": given.steps or max(1, int(given.seconds / seconds))}


class Judge:
    """Holds images of a model against all real ones."""

    def __init__(self, given, vae):
        self.given, self.device = given, torch.device(given.device)
        self.vae = load_vae(vae, self.device)[0]
        options = EmbedOptions(model="timm:resnet10t", weights=given.weights, image_size=SIDE, precision="fp32")
        self.network = Forward(load_backbone(options.settings), self.device, torch.float32, normalize=False)
        with zipfile.ZipFile(given.images) as archive:
            files = [archive.open(name) for name in archive.namelist() if not name.endswith("/")]
            real = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
        self.real = self.moments(real.split(500))
        # As many as are drawn of a model, of all classes.
        some = real[torch.arange(given.drawn) * len(real) // given.drawn]
        self.of_reconstructions = self.distance(map(self.rebuilt, some.split(500)))

    def rebuilt(self, images):
        pixels = images.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            return to_pixels(self.vae.decode(self.vae.moments(pixels)[0])).permute(0, 2, 3, 1)

    def of_model(self, path):
        options = SampleOptions("", f"0-{self.given.drawn - 1}", steps=self.given.sample_steps,
                                device=self.given.device)  # fmt: skip
        sampler = Sampler(load_dit(path, self.device), self.vae, options.resolve(), self.device)
        seeds = torch.arange(self.given.drawn, device=self.device).split(500)
        return self.distance(sampler.images(sampler.latents(some, some % CLASSES))[0] for some in seeds)

    def distance(self, images):
        return frechet_distance(self.moments(images), self.real).distance.value

    def moments(self, images):
        with float32(tf32=True):
            return Moments.of(torch.cat([self.features(some) for some in images]).double().cpu())

    def features(self, images):
        pixels = images.to(self.device).permute(0, 3, 1, 2).float()
        larger = torch.nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return self.network([larger.clamp_(0, 255).round_()])[0]


def result(given, store, folder, judge, name, planned, seed):
    """Train a variant, and return its distance and the seconds of its steps, those of the first line's left out."""
    lines = train(given, store, folder / "run", planned["steps"], seed, VARIANTS[name])
    steps = [line["step"] for line in lines]
    counts = [after - before for before, after in itertools.pairwise(steps)]
    seconds = sum(count * given.batch / line["img_per_s"] for count, line in zip(counts, lines[1:], strict=True))
    distance = judge.of_model(folder / "run" / "model.safetensors")
    seconds *= planned["steps"] / max(1, sum(counts))
    return {"distance": distance, "seconds": seconds, "loss": lines[-1]["loss"]}


def summary(rows):
    distances = [row["distance"] for row in rows]
    error = statistics.stdev(distances) / len(distances) ** 0.5 if len(distances) > 1 else None
    return {"mean": statistics.mean(distances), "error": error, "seeds": rows}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("weights")
    parser.add_argument("--seconds", type=float, default=20, help="of each training, compilation left out")
    parser.add_argument("--steps", type=int, help="of each training, instead of what fits into the seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--arch", default="S/1")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=2e-3)
    parser.add_argument("--more", default="--schedule cosine --warmup 20", help="further options of every training")
    parser.add_argument("--vae", help="an autoencoder for images of 32 pixels, instead of one that is trained here")
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--rate-steps", type=int, default=80, help="of the trainings that steps are timed in")
    parser.add_argument("--drawn", type=int, default=5000, help="images drawn of each model")
    parser.add_argument("--sample-steps", type=int, default=40)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    found = {"device": name_of(torch.device(given.device)), "given": vars(given)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store, vae = prepare(given, folder)
        judge = Judge(given, vae)
        print(json.dumps(found | {"reconstructed": judge.of_reconstructions}), flush=True)
        plans = {name: plan(given, store, folder, name) for name in given.variants.split(",")}
        print(json.dumps(plans), flush=True)
        rows = {name: [] for name in plans}
        for seed in range(given.seeds):
            for name, planned in plans.items():
                rows[name].append(result(given, store, folder, judge, name, planned, seed))
                print(json.dumps({"variant": name, "seed": seed, **rows[name][-1]}), flush=True)
    runs = {name: summary(rows[name]) | planned for name, planned in plans.items()}
    print(json.dumps(found | {"reconstructed": judge.of_reconstructions, "runs": runs}))


if __name__ == "__main__":
    main()
