r"""Speed of sampling by two transformers: a small one that draws the first part of the way, or that guides.

    python tests/bench/companions.py [--arch XL/2] [--small S/2] [--until 0.5,0.7] [--cfg 1,4] [--side 32] [--batch 64]
        [--steps 60] [--repeats 3] [--device cuda]

Latents only, by Euler steps in bf16, random weights. `model` and `small` are either alone, `until_X` the small one up
to the time X and the model from there, `guide` the model guided away from the small one, which is timed without labels'
guidance. `speedup` is to the model alone; `floor_speedup` what the rates of both alone make of the same evaluations, of
which `of_floor` is reached, and `flop_speedup` what their operations alone would. The runs of a kind take turns, and
rates are medians. Prints JSON.
"""

import argparse
import json
import statistics
import time

import torch
from dit import CLASSES, config, filled
from machine import forget_peak, name_of, peak_gib

from dprune.flow import Guidance
from dprune.sampling.latents import ALONE, Companions, ready, sample_latents
from dprune.training.throughput import synchronize


def seconds_of(draw, steps, device):
    synchronize(device)
    began = time.perf_counter()
    draw(steps)
    synchronize(device)
    return time.perf_counter() - began


def plans(model, small, given, cfg):
    """What is run: model, guidance, companions, and the steps of the small model and of the model."""
    guidance, steps = Guidance(cfg), given.steps
    found = {"model": (model, guidance, ALONE, (0, steps)), "small": (small, guidance, ALONE, (steps, 0))}
    for until in map(float, given.until.split(",")):
        first = sum(step / steps < until for step in range(steps))
        found[f"until_{until:g}"] = (model, guidance, Companions(small, until), (first, steps - first))
    if cfg == 1:
        found["guide"] = (model, Guidance(weaker_scale=2.0), Companions(weaker=small), (steps, steps))
    return found


def rates(model, small, given, cfg):
    device, batch = given.device, given.batch
    labels, seeds = torch.arange(batch, device=device) % CLASSES, torch.arange(batch, device=device)
    runs = plans(model, small, given, cfg)

    def run(name, steps):
        network, guidance, companions, _ = runs[name]
        sample_latents(network, labels, seeds, guidance, "euler", steps, torch.bfloat16, companions)

    for name in runs:
        # The first of two steps is the small model's.
        run(name, 2)
    seconds = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, times in seconds.items():
            times.append(seconds_of(lambda steps, name=name: run(name, steps), given.steps, device))
    took = {name: statistics.median(times) for name, times in seconds.items()}
    flop = [config(arch, given.side).flop() for arch in (given.small, given.arch)]
    found = {}
    for name, (*_, (first, rest)) in runs.items():
        floor = (first * took["small"] + rest * took["model"]) / given.steps
        work = first * flop[0] + rest * flop[1]
        found[name] = {
            "img_per_s": batch / took[name], "speedup": took["model"] / took[name],
            "floor_speedup": took["model"] / floor, "of_floor": floor / took[name],
            "flop_speedup": given.steps * flop[1] / work, "seconds": seconds[name],
        }  # fmt: skip
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--small", default="S/2")
    parser.add_argument("--until", default="0.5,0.7")
    parser.add_argument("--cfg", default="1,4")
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cuda")
    given = parser.parse_args()
    device = given.device
    forget_peak(device)
    model, small = (
        ready(filled(arch, given.side, device), torch.bfloat16, compiles=device.type == "cuda")
        for arch in (given.arch, given.small)
    )
    found = {"device": name_of(device), "batch": given.batch, "steps": given.steps}
    for cfg in map(float, given.cfg.split(",")):
        found[f"cfg_{cfg:g}"] = rates(model, small, given, cfg)
        found["memory_gib"] = peak_gib(device)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
