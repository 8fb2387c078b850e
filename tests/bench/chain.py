"""The whole chain as a user runs it: pack, train-vae, encode, train-dit, sample; seconds of each command, as JSON.

    python tests/bench/chain.py photos.zip                        # 2,400 images of 256 px and an XL/2: for a GPU
    python tests/bench/chain.py photos.zip --tree ../before       # the commands of another checkout

Each command is a process of its own, so that imports, compilation and the writing of models count. Beside its seconds
stand those at which its files appeared, the lines of a training's log among them: what came before the first is
start-up. `imports` is what no command that needs the device can be faster than: importing torch and waking the device.
The network's compiled kernels are kept in the work folder: the first round begins without any, a second finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
INTERVAL_S = 0.05
WAKE = "import torch; torch.zeros(1, device='cuda' if torch.cuda.is_available() else 'cpu').sum().item()"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="zip of images; what precedes the first _ of a name is its class")
    parser.add_argument("--tree", type=Path, default=TREE, help="checkout of dprune to run")
    parser.add_argument("--count", type=int, default=2400, help="images, the photos repeated under other names")
    parser.add_argument("--preset", default="base", help="of train-vae")
    parser.add_argument("--vae-steps", type=int, default=100)
    parser.add_argument("--arch", default="XL/2")
    parser.add_argument("--dit-steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=256, help="of train-dit")
    parser.add_argument("--images", type=int, default=512, help="to sample")
    parser.add_argument("--sample-steps", type=int, default=60)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="where files go; what is made there is removed")
    return parser.parse_args()


def unpack(photos: Path, folder: Path, count: int) -> None:
    """Write `count` images into class folders, repeated under other names where the zip holds fewer."""
    with zipfile.ZipFile(photos) as archive:
        contents = [(Path(name).name, archive.read(name)) for name in archive.namelist() if not name.endswith("/")]
    for number in range(count):
        name, content = contents[number % len(contents)]
        path = folder / name.partition("_")[0] / f"{number // len(contents):03d}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def commands(args: argparse.Namespace, photos: Path, work: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Name, output and arguments of each command; what is not given here is the command's default."""
    where, every = ["--device", args.device], ["--log-every", str(args.log_every)]
    shards, vae, latents, dit, generated = (work / name for name in ("shards", "vae", "latents", "dit", "generated"))
    model = str(vae / "model.safetensors")
    yield "pack", shards, [str(photos)]
    yield "train-vae", vae, [str(shards), "--preset", args.preset, "--steps", str(args.vae_steps), *every, *where]
    yield "encode", latents, [str(shards), "--vae", model, *where]
    yield "train-dit", dit, [str(latents), "--arch", args.arch, "--steps", str(args.dit_steps),
                             "--batch-size", str(args.batch_size), *every, *where]  # fmt: skip
    yield "sample", generated, [str(dit / "model.safetensors"), "--vae", model, "--seeds", f"0-{args.images - 1}",
                                "--steps", str(args.sample_steps), *where]  # fmt: skip


class Milestones:
    """When the files of an output appeared, and the lines of its log."""

    def __init__(self, output: Path) -> None:
        self.output, self.seen = output, dict[str, float]()

    def look(self, seconds: float) -> None:
        for path in sorted(self.output.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.seen.setdefault(str(path.relative_to(self.output)), round(seconds, 2))
        log = self.output / "log.jsonl"
        for line in log.read_text().splitlines() if log.exists() else []:
            entry = json.loads(line) if line.endswith("}") else {}
            if entry:
                self.seen.setdefault(f"log: {entry.get('event', 'step')} {entry['step']}", round(seconds, 2))


def run(command: list[str], environment: dict[str, str], output: Path, log: Path) -> dict[str, Any]:
    """Run a command to its end; seconds, memory of its largest process, and milestones."""
    milestones, began = Milestones(output), time.perf_counter()
    with log.open("w") as said:
        # Python looks where it was started before it looks into PYTHONPATH: a checkout there would be run instead.
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=log.parent)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(INTERVAL_S)
            milestones.look(time.perf_counter() - began)
    seconds, (_, status, usage) = time.perf_counter() - began, ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}:\n{log.read_text()[-3000:]}")
    milestones.look(seconds)
    return {"wall_s": round(seconds, 2), "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_gib": round(usage.ru_maxrss / 2**20, 2), "seen_s": milestones.seen}  # fmt: skip


def training(output: Path) -> dict[str, float]:
    """What the last line of a training's log tells of its steps, and the seconds that all would take at that pace."""
    log = output / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rated = [line for line in lines if "img_per_s" in line]
    if not rated:
        return {}
    start = next(line for line in lines if line.get("event") == "start")
    steps_s = start["steps"] * start["batch_size"] / rated[-1]["img_per_s"]
    return {"img_per_s": round(rated[-1]["img_per_s"], 1), "steps_s": round(steps_s, 2),
            "micro_batch": start["micro_batch"]}  # fmt: skip


def chain(args: argparse.Namespace, photos: Path, work: Path, environment: dict[str, str]) -> dict[str, Any]:
    work.mkdir()
    found: dict[str, Any] = {}
    for name, output, arguments in commands(args, photos, work):
        command = [sys.executable, "-m", "dprune", name, "-v", *arguments, "-o", str(output)]
        found[name] = run(command, environment, output, work / f"{name}.log") | training(output)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        print((work / f"{name}.log").read_text(), file=sys.stderr, flush=True)
    found["total_s"] = round(sum(found[name]["wall_s"] for name in found), 2)
    return found


def wake(environment: dict[str, str], repeats: int = 2) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", WAKE], env=environment, check=True)
        seconds.append(time.perf_counter() - began)
    return round(min(seconds), 2)


def check_tree(tree: Path, environment: dict[str, str], work: Path) -> None:
    """Refuse to time another checkout than the one that was asked for."""
    command = [sys.executable, "-c", "import dprune; print(dprune.__file__)"]
    found = subprocess.run(
        command, env=environment, cwd=work, capture_output=True, text=True, check=True
    ).stdout.strip()
    if Path(found).resolve() != (tree / "dprune" / "__init__.py").resolve():
        raise SystemExit(f"--tree {tree}: {found} would be run instead.")


def machine() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {"device": device, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def main() -> dict[str, Any]:
    args = parse()
    args.tree, args.work = args.tree.resolve(), args.work and args.work.resolve()
    asked = {name: getattr(args, name) for name in
             ("count", "preset", "vae_steps", "arch", "dit_steps", "batch_size", "images", "sample_steps")}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        unpack(args.photos, work / "photos", args.count)
        path = os.pathsep.join(filter(None, [str(args.tree), os.environ.get("PYTHONPATH")]))
        caches = ("DPRUNE_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        environment = {**os.environ, "PYTHONPATH": path, **{name: str(work / name.lower()) for name in caches}}
        check_tree(args.tree, environment, work)
        imports = wake(environment)
        rounds = [chain(args, work / "photos", work / f"round-{n}", environment) for n in range(args.rounds)]
    return {**machine(), "asked": asked, "imports_s": imports, "rounds": rounds}


if __name__ == "__main__":
    print(json.dumps(main()))
