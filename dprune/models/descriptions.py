"""What the metadata of a file of weights says of its network, within bounds that networks keep.

A number beyond them would take hours and all memory before the weights turn out not to fit.
"""

from __future__ import annotations

from dprune.formats.checked_json import Flag, ListOf, Object, OneOf, Real, Shape, Text, Whole
from dprune.models.baselines import KIND, LEAST_SIDE, MOST_SIDE, TITLES

_SIDE = Whole(1, 1 << 14)
_CHANNELS = Whole(1, 1 << 16)
_CLASSES: dict[str, Shape] = {"class_counts": ListOf(Whole(0, 1 << 40)), "class_names": ListOf(Text())}
_REACHED: dict[str, Shape] = {"step": Whole(), "epoch": Real(0), "reported": Whole()}
DESCRIPTIONS: dict[str, Shape] = {
    "dit": Object(
        {"input_size": _SIDE, "channels": _CHANNELS, "patch": _SIDE, "width": _CHANNELS, "depth": Whole(1, 1024),
         "heads": Whole(1, 1024), "classes": Whole(0, 1 << 24), "learn_sigma": Flag(), "mean": ListOf(Real()),
         "std": ListOf(Real())},
        {**_REACHED, "parametrization": OneOf(("velocity", "reversed", "noise")), "label_count": Whole(0, 1 << 24),
         **_CLASSES},
    ),
    KIND: Object(
        {"model": OneOf(tuple(TITLES)), "image_size": Whole(LEAST_SIDE, MOST_SIDE), "width": _CHANNELS,
         "latent_size": _CHANNELS, "classes": Whole(0, 1 << 24)},
        {**_REACHED, **_CLASSES},
    ),
    "vae": Object(
        {"latents": OneOf(("vq", "kl")), "image_size": _SIDE, "width": _CHANNELS,
         "multipliers": ListOf(Whole(1, 1024), 1, 16), "blocks": Whole(0, 128), "latent_channels": _CHANNELS,
         "codes": Whole(0, 1 << 24), "l2_codes": Flag()},
        {**_REACHED, "attention": ListOf(Whole(0, 15), 0, 16), "middle_attention": Flag(), "groups": Whole(0, 1 << 10),
         "encoded_channels": Whole(0, 1 << 16), "quant_conv": Flag(), "scored_codes": Flag(), "scaling_factor": Real(),
         "shift_factor": Real()},
    ),
}  # fmt: skip
"""Shape of what is said of each kind of network; checkpoints and states also say how far training had come."""
