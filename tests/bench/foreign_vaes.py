r"""Speed and exactness of an autoencoder in a layout of others, by our kernels and by the readable layers.

    python tests/bench/foreign_vaes.py [--layout sd] [--side 256] [--batch-size 32] [--repeats 5] [--device cuda]

The weights are random, in a layout of tests/data/vaes, and are read as a user's file is. Of each precision and path:
images a second that are encoded and decoded, and the errors beside float32, relative to the norm of the output. Where
there are codes, the share that is float32's instead of the encoder's error. Prints JSON.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import torch
from machine import name_of, peak_gib, timed
from safetensors.numpy import save_file

from dprune.models.paths import quicken_vae
from dprune.models.vae import load_vae
from dprune.precision import float32

sys.path.insert(0, str(Path(__file__).parents[1]))
from foreign import image, tensors

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def load(layout, device):
    """Return the network of a file that holds a layout's tensors."""
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors(layout), Path(folder) / "vae.safetensors")
        return load_vae(Path(folder) / "vae.safetensors", device)[0]


def unlike(found, exact):
    return float((found - exact).norm() / exact.norm())


def measure(network, images, exact, given, dtype):
    """Time a network in a precision, and hold it to float32's outputs."""
    device, (encoded, latents, decoded) = images.device, exact
    layout = torch.channels_last if next(network.parameters()).is_contiguous(memory_format=torch.channels_last) else (
        torch.contiguous_format)  # fmt: skip
    images, latents = (value.contiguous(memory_format=layout) for value in (images, latents))
    with torch.inference_mode(), torch.autocast(device.type, dtype):
        found = network.encode(images)
        row = {"encoded_unlike": unlike(found, encoded), "decoded_unlike": unlike(network.decode(latents), decoded)}
        if network.config.kind == "vq":
            equal = network.quantizer.codes(found) == network.quantizer.codes(encoded)
            row["codes_equal"] = float(equal.float().mean())
        for name, act in (("encode", lambda: network.encode(images)), ("decode", lambda: network.decode(latents))):
            row[f"{name}_img_per_s"] = len(images) / timed(act, given.repeats, device)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="sd")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    plain = load(given.layout, device)
    one = torch.nn.functional.interpolate(torch.from_numpy(image()).float(), size=(given.side, given.side))
    images = torch.cat([one.roll(7 * number, 3) for number in range(given.batch_size)]).to(device)
    with torch.inference_mode(), float32(tf32=False):
        encoded = torch.cat([plain.encode(part) for part in images.split(8)])
        latents = plain.snap(encoded) if plain.config.kind == "vq" else plain.split(encoded)[0]
        decoded = torch.cat([plain.decode(part) for part in latents.split(8)])
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    own = copy.deepcopy(last)
    paths = {"readable": plain, "readable, channels last": last, f"as used: {quicken_vae(own)}": own}
    found = {
        "layout": given.layout, "device": name_of(device), "side": given.side, "batch_size": given.batch_size,
        "precisions": {name: {path: measure(network, images, (encoded, latents, decoded), given, dtype)
                              for path, network in paths.items()} for name, dtype in DTYPES.items()},
        "peak_gib": peak_gib(device),
    }  # fmt: skip
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
