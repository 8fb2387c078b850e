r"""Speed of training on several GPUs beside one: what share of so many times one's rate they reach.

    python tests/bench/ranks.py [--arch XL/2] [--per-rank 128] [--ranks 1,2] [--train-steps 40] [--device cuda]

Training goes through the command, one process or torchrun's, on a store of random latents; the rate is the median of
the log's lines after the first. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dit import make_store


def train(store, given, world, folder):
    launch = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
              "--nproc-per-node", world) if world > 1 else ()  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, launch), "-m", "dprune", "train-dit", store, "--arch", given.arch,
         "--batch-size", str(given.per_rank * world), "--steps", str(given.train_steps),
         "--log-every", str(given.log_every), "--device", given.device, "-q", "-o", folder],
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{world} ranks ended with {done.returncode}"
    start, *lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rates = [line["img_per_s"] for line in lines if "img_per_s" in line]
    return {"ranks": world, "device": start["device"], "micro_batch": start["micro_batch"],
            "img_per_s": statistics.median(rates[1:]), "wall_s": time.perf_counter() - began}  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--per-rank", type=int, default=128, help="samples of a step on each GPU")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--train-steps", type=int, default=40)
    parser.add_argument("--log-every", type=int, default=10, help="steps between two rates of the training")
    parser.add_argument("--samples", type=int, default=2400, help="of the store that is trained on")
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "latents", given.samples, given.side)
        for world in map(int, given.ranks.split(",")):
            found.append(train(store, given, world, Path(folder) / f"run{world}"))
            # One's rate is the first's, whether it is alone there or not.
            one = found[0]["img_per_s"] / found[0]["ranks"]
            found[-1]["of_so_many"] = found[-1]["img_per_s"] / (world * one)
            print(json.dumps({"runs": found}), flush=True)


if __name__ == "__main__":
    main()
