r"""Speed of training and sampling a DiT, beside a matrix product and beside the same model run plainly.

    python tests/bench/dit.py [--arch XL/2] [--batches 64,128,256] [--sample 64,128] [--steps 60] [--no-plain]

Training goes through the command's own job on a store of random latents, logging included; the rate is the median of
the log's lines after the first. `plain` is the same network as SiT's train.py runs it: eager, tf32, unfused AdamW, an
average updated a tensor at a time. Prints JSON; ratios are to a bf16 product of 8192 measured in the same run.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dprune.flow import Guidance, flow_loss, guided, solve
from dprune.formats.latents import KIND, SUMS, part_sums
from dprune.formats.provenance import make_record
from dprune.formats.publish import Output
from dprune.formats.stores import Store
from dprune.models.architectures import parse_architecture
from dprune.models.dit import DiT, DiTConfig
from dprune.runtime import Silent
from dprune.sampling.drawing import ready, sample_latents
from dprune.training.dit.job import open_train_dit
from dprune.training.dit.settings import DiTOptions
from dprune.training.plan import TrainingOptions
from dprune.training.throughput import product_rate

SIDE, CHANNELS, CLASSES = 32, 4, 1000


def config(arch):
    width, depth, heads, patch = parse_architecture(arch)
    return DiTConfig(SIDE, CHANNELS, patch, width, depth, heads, CLASSES)


def clear():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def train(store, arch, batch, folder, micro="auto"):
    clear()
    said = TrainingOptions(
        steps=60, batch_size=batch, micro_batch=micro, precision="bf16", log_every=10, autosave=1e9, device="cuda"
    )
    job = open_train_dit(str(store), DiTOptions(arch=arch), said, Output(str(folder)))
    began = time.perf_counter()
    job.run(Silent())
    wall = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = [line["img_per_s"] for line in lines if "img_per_s" in line]
    first = next(line for line in lines if "img_per_s" in line)
    rate = statistics.median(rates[1:])
    warm_up = 10 * batch / first["img_per_s"] - 10 * batch / rate
    return {"batch": batch, "micro_batch": lines[0]["micro_batch"], "img_per_s": rate, "warm_up_s": warm_up,
            "memory_gib": lines[-1]["memory_gib"], "wall_s": wall}  # fmt: skip


def train_plainly(arch, batch, steps=12):
    clear()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    model = DiT(config(arch)).cuda()
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0, foreach=False)
    x, y = torch.randn(batch, CHANNELS, SIDE, SIDE, device="cuda"), torch.randint(CLASSES, (batch,), device="cuda")
    for step in range(steps):
        if step == 2:
            torch.cuda.synchronize()
            began = time.perf_counter()
        loss = flow_loss(model, x, torch.randn_like(x), torch.rand(batch, device="cuda"), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average, model.parameters(), strict=True):
                a.mul_(0.9999).add_(p, alpha=1e-4)
    torch.cuda.synchronize()
    rate = (steps - 2) * batch / (time.perf_counter() - began)
    torch.set_float32_matmul_precision("highest")
    return {"batch": batch, "img_per_s": rate, "memory_gib": torch.cuda.max_memory_allocated() / 2**30}


def filled(arch):
    model = DiT(config(arch)).cuda()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def sample_plainly(arch, batch, steps):
    clear()
    torch.set_float32_matmul_precision("high")
    model = filled(arch)
    x, y = torch.randn(batch, CHANNELS, SIDE, SIDE, device="cuda"), torch.arange(batch, device="cuda")
    velocity = guided(model, y, CLASSES, Guidance(4.0))
    solve(velocity, x, "euler", 2)
    torch.cuda.synchronize()
    began = time.perf_counter()
    solve(velocity, x, "euler", steps)
    torch.cuda.synchronize()
    torch.set_float32_matmul_precision("highest")
    return {"batch": batch, "img_per_s": batch / (time.perf_counter() - began)}


def make_store(folder, samples=4096):
    """Publish a store of random KL latents."""
    network = {"kind": "kl", "channels": CHANNELS, "size": SIDE, "codes": 0, "image_size": 8 * SIDE}
    record = make_record("encode", {"network": network, "flips": False})
    store = Store(folder, KIND, ("000000.tar",), (), record)
    draw = np.random.default_rng(0)
    shape = (samples, CHANNELS, SIDE, SIDE)
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


def sample(arch, batch, steps):
    clear()
    model = ready(filled(arch), torch.bfloat16, compiles=True)
    labels, seeds = torch.arange(batch, device="cuda") % CLASSES, torch.arange(batch, device="cuda")
    seconds = []
    for number in (2, steps):
        began = time.perf_counter()
        sample_latents(model, labels, seeds, Guidance(4.0), "euler", number, torch.bfloat16)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {"batch": batch, "img_per_s": batch / seconds[1], "warm_up_s": seconds[0]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--batches", default="64,128,256")
    parser.add_argument("--sample", default="64,128")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain runs out")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    flop, device = config(given.arch).flop(), torch.device("cuda")
    ceiling = product_rate(device, torch.bfloat16)
    found = {"device": torch.cuda.get_device_name(), "product_tflops": ceiling / 1e12, "flop_per_image": flop}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "latents")
        for batch in map(int, filter(None, given.batches.split(","))):
            run = train(store, given.arch, batch, Path(folder) / f"run{batch}")
            found[f"train_{batch}"] = run | {"of_product": run["img_per_s"] * 3 * flop / ceiling}
            print(json.dumps(found), flush=True)
    for batch in map(int, filter(None, given.sample.split(","))):
        run = sample(given.arch, batch, given.steps)
        found[f"sample_{batch}"] = run | {"of_product": run["img_per_s"] * 2 * given.steps * flop / ceiling}
        print(json.dumps(found), flush=True)
    if not given.no_plain:
        found["train_plainly"] = train_plainly(given.arch, 64)
        found["sample_plainly"] = sample_plainly(given.arch, 64, given.steps)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
