r"""Speed of the autoencoder: training, encoding and decoding, beside a matrix product and the same network run plainly.

    python tests/bench/vae.py [--preset base] [--batch 64] [--steps 50] [--modes mse,judged] [--forward 64]
        [--precisions bfloat16,float16,float32] [--no-plain] [--device cuda]

Training goes through the command itself, on images that are held decoded; the rate is the median of the log's lines
after the first. `judged` adds a discriminator and LPIPS with random weights. `plain` is the network as models/vae.py
writes it, under autocast. float32 is with tf32. Prints JSON; ratios are to a bf16 product of 8192 in the same run.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import command, forget_peak, name_of, peak_gib, timed
from PIL import Image
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16

from dprune.models.paths import quicken_vae
from dprune.models.perceptual import VGG_CHANNELS, VGG_STAGES
from dprune.models.vae import VAE
from dprune.precision import float32
from dprune.training.throughput import product_rate, synchronize
from dprune.training.vae.loss import AutoencoderObjective, ImageBatch
from dprune.training.vae.settings import VAEOptions


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--log-every", type=int, default=10, help="steps between two rates of the training")
    parser.add_argument("--modes", default="mse,judged")
    parser.add_argument("--images", type=int, default=256, help="that are trained on")
    parser.add_argument("--forward", type=int, default=64, help="images that are encoded and decoded at once")
    parser.add_argument("--precisions", default="bfloat16,float16,float32")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain runs out")
    parser.add_argument("--plain-batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default="cuda")
    return parser.parse_args()


def settings(preset):
    return VAEOptions(preset=preset).resolve()


def flop(config):
    """Floating-point operations of encoding an image, and of decoding it."""
    with torch.device("meta"):
        vae = VAE(config)
        images = torch.empty(1, 3, config.image_size, config.image_size)
        latents = torch.empty(1, config.latent_channels, config.latent_size, config.latent_size)
    counts = []
    for run, given in ((vae.encode, images), (vae.decode, latents)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(given)
        counts.append(counter.get_total_flops())
    return counts


def make_images(folder, count, side):
    """Pack smooth random images."""
    draw = np.random.default_rng(0)
    source = folder / "images"
    source.mkdir()
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(source / f"{number:05d}.png", compress_level=1)
    command("pack", source, "-o", folder / "shards", "-q")
    return folder / "shards"


def make_lpips(path):
    """Save LPIPS with random weights, under the names of its authors' package."""
    state = {}
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16(weights=None).features.state_dict().items()}
    for name, shape in shapes.items():
        stage = next(number for number, own in enumerate(VGG_STAGES, 1) if int(name.partition(".")[0]) in own)
        state[f"net.slice{stage}.{name}"] = torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
    for number, channels in enumerate(VGG_CHANNELS):
        state[f"lin{number}.model.1.weight"] = torch.rand(1, channels, 1, 1)
    save_file(state, path)
    return path


def train(shards, folder, given, mode):
    forget_peak(given.device)
    options = ()
    if mode == "judged":
        options = ("--lpips-weights", make_lpips(folder / "lpips.safetensors"), "--gan-weight", 0.1)
    run = folder / mode
    began = time.perf_counter()
    command("train-vae", shards, "--preset", given.preset, "--batch-size", given.batch, "--steps", given.steps,
            "--log-every", given.log_every, "--precision", "bf16", "--device", given.device, "-q", *options,
            "-o", run)  # fmt: skip
    wall = time.perf_counter() - began
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if "img_per_s" in line]
    rate = statistics.median(line["img_per_s"] for line in found[1:])
    warm_up = given.log_every * given.batch * (1 / found[0]["img_per_s"] - 1 / rate)
    return {"micro_batch": lines[0]["micro_batch"], "img_per_s": rate, "warm_up_s": warm_up,
            "memory_gib": found[-1].get("memory_gib", 0.0), "wall_s": wall}  # fmt: skip


def train_plainly(given, steps=6):
    """Train as `train-vae` does, by the readable path, in the same precision."""
    forget_peak(given.device)
    chosen, size, device = settings(given.preset), given.plain_batch, given.device
    vae = VAE(chosen.config).to(device, memory_format=torch.channels_last)
    objective = AutoencoderObjective(vae, chosen, 0, None, None)
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-4, fused=True)
    side, ids = chosen.config.image_size, torch.arange(size, device=device)
    pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=device)
    for step in range(steps):
        if step == 2:
            synchronize(device)
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = objective(ImageBatch(ids, torch.zeros_like(ids), pixels))
        (loss / size).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
    synchronize(device)
    rate = (steps - 2) * size / (time.perf_counter() - began)
    return {"batch": size, "img_per_s": rate, "memory_gib": peak_gib(device)}


def forward(given, precision, *, plain):
    """Images a second through the encoder to codes, and from latents through the decoder."""
    chosen, dtype, device = settings(given.preset).config, getattr(torch, precision), given.device
    vae = VAE(chosen).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    path = "plain" if plain else quicken_vae(vae)
    side = chosen.image_size
    images = torch.rand(given.forward, 3, side, side, device=device).mul_(2).sub_(1)
    images = images.contiguous(memory_format=torch.channels_last)
    latents = torch.randn(given.forward, chosen.latent_channels, chosen.latent_size, chosen.latent_size, device=device)
    found = {"path": path}
    with torch.inference_mode(), float32(tf32=True):
        for name, run, x in (("codes", vae.codes, images), ("decode", vae.decode, latents)):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found[f"{name}_img_per_s"] = given.forward / timed(lambda: run(x), given.repeats, device)  # noqa: B023
    return found


def main():
    given = arguments()
    device, config = given.device, settings(given.preset).config
    ceiling = product_rate(device, torch.bfloat16)
    encoding, decoding = flop(config)
    found = {"device": name_of(device), "torch": torch.__version__, "product_tflops": ceiling / 1e12,
             "flop_per_image": 3 * (encoding + decoding)}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_images(folder, given.images, config.image_size)
        for mode in filter(None, given.modes.split(",")):
            run = train(shards, folder, given, mode)
            found[f"train_{mode}"] = run | {"of_product": run["img_per_s"] * found["flop_per_image"] / ceiling}
            print(json.dumps(found), flush=True)
    for precision in filter(None, given.precisions.split(",")):
        found[f"forward_{precision}"] = forward(given, precision, plain=False)
        if not given.no_plain:
            found[f"forward_{precision}_plainly"] = forward(given, precision, plain=True)
        print(json.dumps(found), flush=True)
    if not given.no_plain:
        found["train_plainly"] = train_plainly(given)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
