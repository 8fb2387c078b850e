"""Autoencoders of others without their code or weights: tensors by name, drawn alike wherever they are wanted."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "data" / "vaes"
SEEN = (slice(None), slice(None), slice(1, None, 3), slice(None, None, 3))
"""Which pixels of a decoded image are kept."""

Shape = tuple[int, ...]


def drawn(name: str, shape: Shape) -> npt.NDArray[np.float32]:
    """Draw a tensor by its name: weights that keep the size of what they multiply, norms and their biases near one."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.float32(0.1) * values + np.float32("norm" in name and name.endswith("weight"))
    if "embed" in name:
        return values
    return values / np.float32(math.sqrt(math.prod(shape[1:])))


def image() -> npt.NDArray[np.float32]:
    """A picture of waves in [-1, 1], float32 [1, 3, 64, 64]."""
    y, x = np.mgrid[:64, :64] / 64
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y * y + x), np.sin(23 * x * y)]
    return np.stack(waves)[None].astype(np.float32)


def layout_text(shapes: dict[str, Shape]) -> str:
    """Write names and shapes, a tensor a line."""
    return "".join(f"{name} {'x'.join(map(str, shape))}\n" for name, shape in shapes.items())


def layout(name: str) -> dict[str, Shape]:
    """Read names and shapes."""
    lines = (line.split(" ") for line in (FOLDER / f"{name}.layout").read_text().splitlines())
    return {tensor: tuple(int(side) for side in shape.split("x") if side) for tensor, shape in lines}


def tensors(name: str, prefix: str = "") -> dict[str, npt.NDArray[np.float32]]:
    """Draw all tensors of a layout; a prefix comes before their names and changes no values."""
    return {prefix + tensor: drawn(tensor, shape) for tensor, shape in layout(name).items()}
