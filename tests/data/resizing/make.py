"""Write expected.npz: pixels of a pattern as torch-fidelity 0.4.0 resizes it for its Inception network.

    pip install torch torch-fidelity==0.4.0
    python make.py

For each shape of `SHAPES` the array HEIGHTxWIDTH holds float32 [299, 299] of the first channel at every 13th row and
column, of the resize that torch-fidelity calls `interpolate_bilinear_2d_like_tensorflow1x`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SHAPES = ((32, 32), (5, 7), (64, 48), (299, 299), (400, 310))
EVERY = 13


def pattern(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return an image [height, width, 3] with something to see at every scale."""
    row, column, channel = np.ogrid[:height, :width, :3]
    return ((row * 7 + column * 13 + channel * 29 + row * column // 11) % 256).astype(np.uint8)


def main() -> None:
    """Resize the pattern in every shape."""
    import torch
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    found = {}
    for height, width in SHAPES:
        pixels = torch.from_numpy(pattern(height, width).transpose(2, 0, 1).copy()).float()[None]
        resized = resize(pixels, size=(299, 299), align_corners=False)
        found[f"{height}x{width}"] = resized[0, 0, ::EVERY, ::EVERY].numpy()
    np.savez_compressed(Path(__file__).with_name("expected.npz"), **found)


if __name__ == "__main__":
    main()
