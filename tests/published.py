"""Diffusion transformers of others without their code or weights: tensors by name, drawn alike wherever wanted."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from foreign import Shape

FOLDER = Path(__file__).parent / "data" / "published"
SEEDS, CLASSES, CFG, STEPS = (0, 1, 2), (7, 413, 999), 4.0, 4
"""What is sampled: a seed and a class for each image, with guidance, in so many steps."""
TIMES = (0, 301, 999)
"""Timesteps of DiT, one for each image."""


def drawn(name: str, shape: Shape) -> npt.NDArray[np.float32]:
    """Draw a tensor by its name, so that it keeps the size of what it multiplies and what it says is heard."""
    # Of diffusers' blocks each has a copy of what embeds times and labels.
    name = re.sub(r"transformer_blocks\.\d+\.norm1\.emb", "", name)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.float32(0.1) * values
    if "embedding_table" in name:
        return values
    return values / np.float32(math.sqrt(math.prod(shape[1:])))


def layout(name: str) -> dict[str, Shape]:
    """Read names and shapes."""
    lines = (line.split(" ") for line in (FOLDER / f"{name}.layout").read_text().splitlines())
    return {tensor: tuple(int(side) for side in shape.split("x") if side) for tensor, shape in lines}


def tensors(name: str) -> dict[str, npt.NDArray[np.float32]]:
    """Draw all tensors of a layout but the positions, which nobody draws."""
    return {tensor: drawn(tensor, shape) for tensor, shape in layout(name).items() if tensor != "pos_embed"}
