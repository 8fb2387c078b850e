"""`pack` of a parquet file of many small images: rows a second and memory, beside a plain loop over its batches; JSON.

    python tests/bench/tables.py                     # 1,000,000 rows in one row group: 2.5 GB of disk, some minutes
    python tests/bench/tables.py --row-group 1000    # as Hugging Face's library writes them
    python tests/bench/tables.py --npz               # as many images as an .npz, compressed

The command is a process of its own. `main_mib` is the most that its main process held, `all_mib` the most that it and
its workers held together, pages that they share counted once; `first` is the same command on the first rows, so that
the difference is what rows cost. `loop` reads the same columns of the same file as Python's objects, and does nothing
else.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

TREE = Path(__file__).resolve().parents[2]
INTERVAL_S = 0.1
POOL = 1000
"""Images that are drawn; the rows take them in turns."""
AT_ONCE = 50_000
"""Rows that are written at once."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=10_000, help="rows of the command that the other is held against")
    parser.add_argument("--side", type=int, default=28, help="pixels of an image")
    parser.add_argument("--row-group", type=int, default=1 << 20)
    parser.add_argument("--workers", type=int, help="of the command; its own default otherwise")
    parser.add_argument("--npz", action="store_true", help="pack an .npz instead")
    parser.add_argument("--work", type=Path, help="where files go; what is made there is removed")
    return parser.parse_args()


def drawn(side: int) -> Iterator[np.ndarray[Any, Any]]:
    """Grey images that compress as pictures of digits do."""
    rng, place = np.random.default_rng(0), np.arange(side)
    for _ in range(POOL):
        x, y = rng.uniform(0, side, 2)
        distance = np.hypot(place[:, None] - y, place[None] - x)
        yield (255 * np.exp(-((distance - side / 4) ** 2) / side)).astype(np.uint8)


def write_parquet(path: Path, rows: int, side: int, row_group: int) -> None:
    pool = []
    for pixels in drawn(side):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        pool.append(buffer.getvalue())
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())])
    # Without a dictionary, which would hold each of the few images once.
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for begin in range(0, rows, max(AT_ONCE, row_group)):
            numbers = range(begin, min(rows, begin + max(AT_ONCE, row_group)))
            images = [{"bytes": pool[n % POOL], "path": f"{n:08d}.png"} for n in numbers]
            columns = [pa.array(images, type=image), pa.array([n % 10 for n in numbers])]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=row_group)


def write_npz(path: Path, rows: int, side: int) -> None:
    pool = np.stack(list(drawn(side)))
    np.savez_compressed(path, pool[np.arange(rows) % POOL], np.arange(rows) % 10)


def held_kib(process: int) -> tuple[int, int]:
    """What a process holds, and what it and its children hold together, in KiB."""
    found = []
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for number in (str(process), *children):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        table = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
        found.append((table["Rss:"], table["Pss:"]))
    return (found[0][0] if found else 0), sum(share for _, share in found)


def pack(source: Path, output: Path, workers: int | None) -> dict[str, Any]:
    """Run the command; seconds, and the most memory at any look."""
    more = [] if workers is None else ["--workers", str(workers)]
    command = [sys.executable, "-m", "dprune", "pack", str(source), "-o", str(output), "--json", *more]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    began, main, everything = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, env=environment, cwd=output.parent, stdout=subprocess.PIPE)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        with_children = held_kib(process.pid)
        main, everything = max(main, with_children[0]), max(everything, with_children[1])
        time.sleep(INTERVAL_S)
    seconds, (_, status, usage) = time.perf_counter() - began, ended
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stdout is not None
    with process.stdout as file:
        said = file.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    samples = json.loads(said)["samples"]
    return {"samples": samples, "wall_s": round(seconds, 2), "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
            "rows_per_s": round(samples / seconds), "main_mib": main >> 10, "all_mib": everything >> 10}  # fmt: skip


def loop(path: Path) -> dict[str, Any]:
    """Read all rows as Python's objects."""
    began, rows = time.perf_counter(), 0
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(256, use_threads=False):
            contents = batch.column("image").field("bytes").to_pylist()
            rows += len(list(zip(contents, batch.column("label").to_pylist(), strict=True)))
    seconds = time.perf_counter() - began
    return {"wall_s": round(seconds, 2), "rows_per_s": round(rows / seconds)}


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        found: dict[str, Any] = {"cpus": os.cpu_count(), "cpu": platform.processor(), "rows": args.rows}
        for name, rows in (("first", min(args.first, args.rows)), ("pack", args.rows)):
            source = Path(folder, f"{name}.{'npz' if args.npz else 'parquet'}")
            if args.npz:
                write_npz(source, rows, args.side)
            else:
                write_parquet(source, rows, args.side, args.row_group)
            found[name] = {"mib": source.stat().st_size >> 20, **pack(source, Path(folder, name), args.workers)}
        found["mib_of_rows"] = found["pack"]["all_mib"] - found["first"]["all_mib"]
        if not args.npz:
            found["loop"] = loop(source)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
