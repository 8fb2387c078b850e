r"""Speed of training and sampling a DiT, beside a matrix product and beside the same model run plainly.

    python tests/bench/dit.py [--arch XL/2] [--side 32] [--batches 64,128,256] [--sample 64,128] [--steps 60]
        [--device cuda] [--no-plain] [--profile]

Training goes through the command itself on a store of random latents, logging included; the rate is the median of
the log's lines after the first. `plain` is the same network as SiT's train.py runs it: eager, tf32, unfused AdamW, an
average updated a tensor at a time. `--profile` lists what takes most of a step by itself, without the command, of
the fused and of the compiled path. S/1 on 64 tokens is `--arch S/1 --side 8 --batches 512`. Prints JSON; ratios are to
a bf16 product of 8192 measured in the same run.
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
from torch.profiler import profile

from dprune.flow import Guidance, flow_loss, guided, solve
from dprune.formats.latents import KIND, SUMS, part_sums
from dprune.formats.provenance import make_record
from dprune.formats.stores import Store
from dprune.models.architectures import parse_architecture
from dprune.models.dit import DiT, DiTConfig
from dprune.models.paths import quicken_dit
from dprune.sampling.latents import ready, sample_latents
from dprune.training.throughput import product_rate, synchronize

CHANNELS, CLASSES = 4, 1000


def config(arch, side):
    width, depth, heads, patch = parse_architecture(arch)
    return DiTConfig(side, CHANNELS, patch, width, depth, heads, CLASSES)


def train(store, given, batch, folder):
    forget_peak(given.device)
    began = time.perf_counter()
    command("train-dit", store, "--arch", given.arch, "--batch-size", batch, "--steps", given.train_steps,
            "--log-every", given.log_every, "--precision", "bf16", "--device", given.device, "-q",
            "-o", folder)  # fmt: skip
    wall = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = [line["img_per_s"] for line in lines if "img_per_s" in line]
    first = next(line for line in lines if "img_per_s" in line)
    rate = statistics.median(rates[1:])
    warm_up = given.log_every * batch / first["img_per_s"] - given.log_every * batch / rate
    return {"batch": batch, "micro_batch": lines[0]["micro_batch"], "img_per_s": rate, "warm_up_s": warm_up,
            "memory_gib": peak_gib(given.device), "wall_s": wall}  # fmt: skip


def profiled(arch, side, batch, device, path, repeats=3):
    """Milliseconds of a step, and of its kernels by name, with the optimizer and the average."""
    model = DiT(config(arch, side)).to(device)
    model.initialize(torch.Generator(device).manual_seed(0))
    if path == "compiled":
        model.compile_blocks()
    else:
        path = quicken_dit(model, torch.bfloat16, compiles=device.type == "cuda")
    parameters = [p for p in model.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True)
    x, t = torch.randn(batch, CHANNELS, side, side, device=device), torch.rand(batch, device=device)
    y = torch.randint(CLASSES, (batch,), device=device)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_loss(model, x, torch.randn_like(x), t, y).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1e-4)

    seconds = timed(step, repeats, device)
    # Told, since torch 2.11 warns where it is not.
    with profile(acc_events=True) as found:
        for _ in range(repeats):
            step()
        synchronize(device)
    events = [event for event in found.key_averages() if event.device_type.name == "CUDA"]
    times = {event.key: event.self_device_time_total / 1000 / repeats for event in events}
    most = dict(sorted(times.items(), key=lambda item: -item[1])[:25])
    return {"path": path, "batch": batch, "ms": seconds * 1000, "kernels_ms": most}


def train_plainly(arch, side, batch, device, steps=12):
    forget_peak(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    model = DiT(config(arch, side)).to(device)
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0, foreach=False)
    x, y = torch.randn(batch, CHANNELS, side, side, device=device), torch.randint(CLASSES, (batch,), device=device)
    for step in range(steps):
        if step == 2:
            synchronize(device)
            began = time.perf_counter()
        loss = flow_loss(model, x, torch.randn_like(x), torch.rand(batch, device=device), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average, model.parameters(), strict=True):
                a.mul_(0.9999).add_(p, alpha=1e-4)
    synchronize(device)
    rate = (steps - 2) * batch / (time.perf_counter() - began)
    torch.set_float32_matmul_precision("highest")
    return {"batch": batch, "img_per_s": rate, "memory_gib": peak_gib(device)}


def filled(arch, side, device):
    model = DiT(config(arch, side)).to(device)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def sample_plainly(arch, side, batch, device, steps):
    forget_peak(device)
    torch.set_float32_matmul_precision("high")
    model = filled(arch, side, device)
    x, y = torch.randn(batch, CHANNELS, side, side, device=device), torch.arange(batch, device=device)
    velocity = guided(model, y, CLASSES, Guidance(4.0))
    solve(velocity, x, "euler", 2)
    synchronize(device)
    began = time.perf_counter()
    solve(velocity, x, "euler", steps)
    synchronize(device)
    torch.set_float32_matmul_precision("highest")
    return {"batch": batch, "img_per_s": batch / (time.perf_counter() - began)}


def make_store(folder, samples, side):
    """Publish a store of random KL latents."""
    network = {"kind": "kl", "channels": CHANNELS, "size": side, "codes": 0, "image_size": 8 * side}
    record = make_record("encode", {"network": network, "flips": False})
    store = Store(folder, KIND, ("000000.tar",), (), record)
    draw = np.random.default_rng(0)
    shape = (samples, CHANNELS, side, side)
    tensors = {
        "label": draw.integers(0, CLASSES, samples),
        "valid": np.ones(samples, dtype=bool),
        "mean": draw.standard_normal(shape, dtype=np.float32).astype(np.float16),
        "logvar": np.full(shape, -6, dtype=np.float16),
    }
    tensors["label"][0] = CLASSES - 1
    tensors[SUMS["kl"]] = part_sums(network, tensors)
    store.publish_manifest()
    store.publish_part("000000.tar", tensors, "random", samples, [])
    return folder


def sample(arch, side, batch, device, steps):
    forget_peak(device)
    model = ready(filled(arch, side, device), torch.bfloat16, compiles=device.type == "cuda")
    labels, seeds = torch.arange(batch, device=device) % CLASSES, torch.arange(batch, device=device)
    seconds = []
    for number in (2, steps):
        began = time.perf_counter()
        sample_latents(model, labels, seeds, Guidance(4.0), "euler", number, torch.bfloat16)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return {"batch": batch, "img_per_s": batch / seconds[1], "warm_up_s": seconds[0]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--batches", default="64,128,256")
    parser.add_argument("--sample", default="64,128")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain runs out")
    parser.add_argument("--profile", action="store_true", help="list the kernels of a step at the first of --batches")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--train-steps", type=int, default=60)
    parser.add_argument("--log-every", type=int, default=10, help="steps between two rates of the training")
    parser.add_argument("--samples", type=int, default=4096, help="of the store that is trained on")
    parser.add_argument("--plain-batch", type=int, default=64)
    parser.add_argument("--device", type=torch.device, default="cuda")
    given = parser.parse_args()
    flop, device = config(given.arch, given.side).flop(), given.device
    ceiling = product_rate(device, torch.bfloat16)
    found = {"device": name_of(device), "product_tflops": ceiling / 1e12, "flop_per_image": flop}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "latents", given.samples, given.side)
        for batch in map(int, filter(None, given.batches.split(","))):
            run = train(store, given, batch, Path(folder) / f"run{batch}")
            found[f"train_{batch}"] = run | {"of_product": run["img_per_s"] * 3 * flop / ceiling}
            print(json.dumps(found), flush=True)
    for batch in map(int, filter(None, given.sample.split(","))):
        run = sample(given.arch, given.side, batch, device, given.steps)
        found[f"sample_{batch}"] = run | {"of_product": run["img_per_s"] * 2 * given.steps * flop / ceiling}
        print(json.dumps(found), flush=True)
    if given.profile:
        batch = int(given.batches.split(",")[0])
        found["profile"] = [profiled(given.arch, given.side, batch, device, path) for path in ("compiled", "fused")]
        print(json.dumps(found), flush=True)
    if not given.no_plain:
        found["train_plainly"] = train_plainly(given.arch, given.side, given.plain_batch, device)
        found["sample_plainly"] = sample_plainly(given.arch, given.side, given.plain_batch, device, given.steps)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
