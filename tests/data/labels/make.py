"""Makes the files beside this one: labels as pandas 3.1 and EDM's dataset tool write them.

    python make.py DATASET_TOOL

DATASET_TOOL is dataset_tool.py of https://github.com/NVlabs/edm, commit 008a4e5.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).parent
NAMES = ["ape", "cat", "dog", "cat", "emu, great", 'the "best"']


def frames() -> None:
    """Write a table of labels in each way that pandas has, with and without an index, and with numbers and a gap."""
    table = pd.DataFrame({"file_name": [f"{row:03d}.png" for row in range(6)], "label": NAMES})
    table.to_csv(HERE / "plain.csv", index=False)
    table.to_csv(HERE / "indexed.csv")
    table.to_csv(HERE / "bare.csv", index=False, header=False)
    table.to_csv(HERE / "tabs.tsv", index=False, sep="\t")
    table.to_csv(HERE / "semicolons.csv", index=False, sep=";")
    table.to_json(HERE / "metadata.jsonl", orient="records", lines=True)
    table.to_json(HERE / "records.json", orient="records", indent=1)
    table.set_index("file_name")["label"].to_json(HERE / "series.json")
    numbers = table.assign(label=[3, 1, 4, 1, np.nan, 9])
    numbers.to_csv(HERE / "numbers.csv", index=False)
    numbers.to_json(HERE / "numbers.jsonl", orient="records", lines=True)


def edm(tool: str) -> None:
    """Write a zip of images in folders that are no classes, with the classes in its dataset.json."""
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(("cat", "dog", "ape", "cat", "ape")):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = Path(folder, "in", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        command = [sys.executable, tool, f"--source={folder}/in", f"--dest={HERE}/edm.zip"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    frames()
    edm(sys.argv[1])
