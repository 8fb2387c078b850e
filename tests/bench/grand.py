r"""Speed of scoring by EL2N, GraNd, MoSo and influence, beside a matrix product and beside one sample at a time.

    python tests/bench/grand.py [--arch XL/2] [--batch 128] [--samples 16384] [--side 32] [--device cuda] [--no-loop]

`el2n`, `grand`, `grand_dot` (MoSo's pass) and `influence` (dots alone) are passes of the scorer alone, with one draw;
`mean_gradient` is what comes before the last two. `of_product` counts their products, in forward passes 1, 2.3, 3.3, 3
and 3. `command_*` go through the command's own job on a store of random latents, files and all, and their rate is that
after the first portion, which compiles; the target of `command_influence_1` is one batch. `loop` is one gradient at a
time by autograd in bf16, as the authors score. Prints JSON; hours are those of ImageNet.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dprune.flow import flow_loss
from dprune.formats.latents import KIND, SUMS, part_sums
from dprune.formats.provenance import make_record
from dprune.formats.publish import Output
from dprune.formats.stores import Store
from dprune.models.architectures import parse_architecture
from dprune.models.dit import DiT, DiTConfig
from dprune.models.dit_files import network_metadata
from dprune.models.files import publish_model
from dprune.precision import float32
from dprune.runtime import Silent
from dprune.scoring.el2n_grand import El2nOptions, GrandOptions, open_el2n, open_grand
from dprune.scoring.influence import InfluenceOptions, open_influence
from dprune.scoring.scorer import Scorer
from dprune.scoring.settings import ScoreSettings
from dprune.training.throughput import product_rate, synchronize

CHANNELS, CLASSES, IMAGENET = 4, 1000, 1_281_167


def filled(arch, side, device):
    width, depth, heads, patch = parse_architecture(arch)
    model = DiT(DiTConfig(side, CHANNELS, patch, width, depth, heads, CLASSES)).to(device)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name != "pos_embed":
                p.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def clear(device):
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device):
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def passes(given, device, *, gradients=True, dots=False, norms=True, sums=False):
    """Rate and warm-up of the scorer alone: of what it measures, or of the sum of gradients."""
    clear(device)
    settings = ScoreSettings((0.06,), 1, 0, "bfloat16", compiles=given.compiles)
    scorer = Scorer(filled(given.arch, given.side, device), settings, gradients=gradients)
    x = torch.randn(given.batch, CHANNELS, given.side, given.side, device=device)
    y = torch.arange(given.batch, device=device) % CLASSES
    if dots:
        direction = {name: torch.randn_like(value) for name, value in scorer.gradients.zeros().items()}
        scorer.gradients.aim(direction, norms=norms)
        del direction
    zeros = scorer.gradients.zeros() if sums else None

    def once():
        return scorer.add_gradients(x, y, zeros, given.batch) if sums else scorer.measure(x, y)

    with float32(tf32=False):
        began = time.perf_counter()
        once()
        synchronize(device)
        first = time.perf_counter() - began
        once()
        synchronize(device)
        began = time.perf_counter()
        for _ in range(given.repeats):
            once()
        synchronize(device)
    each = (time.perf_counter() - began) / given.repeats
    return {"samples_per_s": given.batch / each, "warm_up_s": first - each, "memory_gib": memory(device)}


def loop(given, device):
    """Rate of plain autograd, one sample at a time."""
    clear(device)
    model = filled(given.arch, given.side, device)
    parameters = [p.requires_grad_(True) for name, p in model.named_parameters() if name != "pos_embed"]
    x = torch.randn(1, CHANNELS, given.side, given.side, device=device)
    y, t = torch.zeros(1, dtype=torch.int64, device=device), torch.full((1,), 0.94, device=device)
    noise = torch.randn_like(x)
    for step in range(given.repeats + 2):
        if step == 2:
            synchronize(device)
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_loss(model, x, noise, t, y).sum()
        found = torch.autograd.grad(loss, parameters)
        float(torch.stack(torch._foreach_norm(found)).norm())
    return {"samples_per_s": given.repeats / (time.perf_counter() - began)}


def make_store(folder, samples, side):
    """Publish a store of random codes."""
    network = {"kind": "vq", "channels": CHANNELS, "size": side, "codes": 4096, "image_size": 8 * side}
    record = make_record("encode", {"network": network, "flips": False})
    counts = [len(part) for part in np.array_split(np.arange(samples), 4)]
    store = Store(folder, KIND, tuple(f"{number:06d}.tar" for number in range(4)), (), record)
    draw = np.random.default_rng(0)
    store.publish_manifest()
    store.publish_beside("codebook.safetensors", {"codebook": draw.standard_normal((4096, CHANNELS), np.float32)})
    for number, count in enumerate(counts):
        tensors = {
            "label": draw.integers(0, CLASSES, count),
            "valid": np.ones(count, dtype=bool),
            "codes": draw.integers(0, 4096, (count, side * side)).astype(np.uint16),
        }
        tensors[SUMS["vq"]] = part_sums(network, tensors)
        store.publish_part(store.shards[number], tensors, f"random{number}", count, [])
    return folder


class Watch(Silent):
    """Notes when samples were done."""

    def __init__(self):
        self.done = [(time.perf_counter(), 0)]

    def advance(self, count=1):
        self.done.append((time.perf_counter(), self.done[-1][1] + count))


def command(given, device, method, folder, draws):
    """Rate of the command's job."""
    clear(device)
    watch, begin = Watch(), time.perf_counter()
    opened, made = {"el2n": (open_el2n, El2nOptions), "grand": (open_grand, GrandOptions),
                    "influence": (open_influence, InfluenceOptions)}[method]  # fmt: skip
    more = {"target": str(folder / "target.npy"), "noise": "own"} if method == "influence" else {}
    options = made(draws=draws, precision="bf16", device=given.device, batch_size=given.batch,
                   compiles=given.compiles, **more)  # fmt: skip
    output = Output(str(folder / f"{method}{draws}.npy"))
    opened(str(folder / "latents"), str(folder / "model.safetensors"), options, output).run(watch)
    end = time.perf_counter()
    # Passes are queued ahead of the device: what is counted from is a moment at which it had to be waited for.
    skip = len(watch.done) // 4
    start, before = watch.done[skip]
    rate = (watch.done[-1][1] - before) / (end - start)
    return {"draws": draws, "samples_per_s": rate, "wall_s": end - begin, "hours_for_imagenet": IMAGENET / rate / 3600,
            "memory_gib": memory(device)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16384, help="of the command's store; 0 leaves it out")
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--repeats", type=int, default=10, help="passes that are timed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-loop", action="store_true", help="leave one sample at a time out")
    given = parser.parse_args()
    device = torch.device(given.device)
    given.compiles = device.type == "cuda"
    ceiling = product_rate(device, torch.bfloat16)
    flop = filled(given.arch, given.side, torch.device("meta")).config.flop()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found = {"device": name, "batch": given.batch, "product_tflops": ceiling / 1e12, "flop_per_forward": flop}
    kinds = {"el2n": ({"gradients": False}, 1.0), "grand": ({}, 2.3), "grand_dot": ({"dots": True}, 3.3),
             "influence": ({"dots": True, "norms": False}, 3.0), "mean_gradient": ({"sums": True}, 3.0)}  # fmt: skip
    for kind, (more, forwards) in kinds.items():
        run = passes(given, device, **more)
        found[kind] = run | {"of_product": run["samples_per_s"] * forwards * flop / ceiling}
        print(json.dumps(found), flush=True)
    if not given.no_loop:
        found["loop"] = loop(given, device)
        found["grand_over_loop"] = found["grand"]["samples_per_s"] / found["loop"]["samples_per_s"]
        print(json.dumps(found), flush=True)
    if given.samples:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_store(folder / "latents", given.samples, given.side)
            model = filled(given.arch, given.side, torch.device("cpu"))
            header = network_metadata(model.config, torch.zeros(CHANNELS), torch.ones(CHANNELS), CLASSES)
            publish_model(folder / "model.safetensors", model.state_dict(), header, make_record("train-dit", {}))
            np.save(folder / "target.npy", np.arange(min(given.batch, given.samples)))
            for method, draws in (("el2n", 1), ("grand", 1), ("grand", 8), ("influence", 1)):
                found[f"command_{method}_{draws}"] = command(given, device, method, folder, draws)
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
