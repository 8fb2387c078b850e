"""Sizes of diffusion transformers by name; nothing here imports torch, so that options are checked at once."""

from __future__ import annotations

from difflib import get_close_matches

from dprune.errors import UsageError

# Width, depth and heads. S to XL are those of Peebles and Xie (2023); nano and tiny train on a CPU.
ARCHITECTURES = {
    "nano": (128, 4, 4),
    "tiny": (192, 6, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PATCHES = (1, 2, 4, 8, 16)
HEADS = {width: heads for name, (width, _, heads) in ARCHITECTURES.items() if name in ("S", "B", "L", "XL")}
"""Heads of the published architectures by their width, since shapes of weights do not tell them."""


def parse_architecture(text: str) -> tuple[int, int, int, int]:
    """Read an --arch such as `XL/2`.

    Returns:
        Width, depth, heads and patch.

    Raises:
        UsageError: there is no such architecture.
    """
    name, _, patch = text.partition("/")
    if name in ARCHITECTURES and patch in map(str, PATCHES):
        return (*ARCHITECTURES[name], int(patch))
    known = [f"{size}/{side}" for size in ARCHITECTURES for side in PATCHES]
    close = get_close_matches(text, known, 1)
    hint = f"did you mean {close[0]}?" if close else "give NAME/PATCH such as XL/2."
    sizes, patches = ", ".join(ARCHITECTURES), ", ".join(map(str, PATCHES))
    raise UsageError(f"--arch {text}: no such architecture (names are {sizes}; patches {patches}): {hint}")
