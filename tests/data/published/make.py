"""Writes the files beside it: what DiT, SiT and REPA name their tensors, and what their code makes of noise.

    python tests/data/published/make.py SIT DIT REPA

takes work trees of willisma/SiT (947f95b), facebookresearch/DiT (ed81ce2) and sihyun-yu/REPA (67f7145), and timm
1.0.31, torchdiffeq and diffusers 0.42 from the environment. Weights are those of `drawn` but for the positions, noise
is that of dprune's seeds, and latents are decoded by diffusers' AutoencoderKL with the weights of `foreign`. Outputs
are computed in float64 and kept in float32; XL-2 is the layout of the published weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]

import foreign  # noqa: E402
from published import CFG, CLASSES, SEEDS, STEPS, TIMES, drawn  # noqa: E402

from dprune.flow import start  # noqa: E402

SMALL = {"input_size": 8, "hidden_size": 384, "depth": 2, "num_heads": 6}
SCALE = 0.18215


def imported(folder: str, *names: str) -> list[Any]:
    """Import modules of a work tree, whose names are those of others."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {name.partition(".")[0] for name in names}]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        return [__import__(name, fromlist=["*"]) for name in names]
    finally:
        sys.path.remove(folder)


def layout(name: str, network: nn.Module) -> None:
    shapes = {tensor: tuple(value.shape) for tensor, value in network.state_dict().items()}
    (HERE / f"{name}.layout").write_text(foreign.layout_text(shapes))


def filled(network: nn.Module) -> nn.Module:
    state = {name: torch.from_numpy(drawn(name, tuple(value.shape))) for name, value in network.state_dict().items()
             if name != "pos_embed"}  # fmt: skip
    network.load_state_dict(state, strict=False)
    # Waves of times are float32, whatever the weights are.
    for name, module in network.named_modules():
        if name == "t_embedder.mlp" or name.endswith("timestep_embedder"):
            module.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return network.double().eval().requires_grad_(False)


def decoder() -> Callable[[Tensor], Tensor]:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(str(foreign.FOLDER / "small.json")))
    vae.load_state_dict({name: torch.from_numpy(value) for name, value in foreign.tensors("small").items()})
    vae = vae.double().eval().requires_grad_(False)
    return lambda latents: vae.decode(latents / SCALE).sample


def write(name: str, **outputs: Tensor) -> None:
    kept = {key: value.float().numpy() for key, value in outputs.items()}
    np.savez_compressed(HERE / f"{name}.npz", **kept)
    print(name, {key: (value.shape, float(value.std())) for key, value in kept.items()})


def sit(folder: str) -> None:
    models, transport = imported(folder, "models", "transport")
    with torch.device("meta"):
        layout("SiT-XL-2", models.SiT(depth=28, hidden_size=1152, patch_size=2, num_heads=16))
    network = filled(models.SiT(**SMALL))
    layout("SiT", network)
    # Half of the batch is for the images without their classes.
    noise = start(torch.tensor(SEEDS), (4, 8, 8)).double().repeat(2, 1, 1, 1)
    labels = torch.tensor([*CLASSES, *[1000] * len(CLASSES)])
    sample = transport.Sampler(transport.create_transport()).sample_ode(sampling_method="euler", num_steps=STEPS + 1)
    latents = sample(noise, network.forward_with_cfg, y=labels, cfg_scale=CFG)[-1].chunk(2)[0]
    write("SiT", latents=latents, images=decoder()(latents))


def dit(folder: str) -> None:
    models, diffusion = imported(folder, "models", "diffusion")
    with torch.device("meta"):
        layout("DiT-XL-2", models.DiT(depth=28, hidden_size=1152, patch_size=2, num_heads=16))
    network = filled(models.DiT(**SMALL))
    layout("DiT", network)
    diffusers_layout()
    x, t = start(torch.tensor(SEEDS), (4, 8, 8)).double(), torch.tensor(TIMES)
    found = network(x, t, torch.tensor(CLASSES))
    process = diffusion.create_diffusion("")
    data = process._predict_xstart_from_eps(x, t, found[:, :4])
    write("DiT", noise=found[:, :4], data=data, kept=torch.from_numpy(process.alphas_cumprod)[list(TIMES)])


def diffusers_layout() -> None:
    """Keep what diffusers names DiT's tensors, and what it makes of noise."""
    from diffusers import DiTTransformer2DModel

    config = {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    with torch.device("meta"):
        layout("diffusers", DiTTransformer2DModel(**config, in_channels=4, out_channels=8))
    theirs = filled(DiTTransformer2DModel(**config, in_channels=4, out_channels=8))
    (HERE / "diffusers.json").write_text(theirs.to_json_string())
    # It puts DiT's frequencies a little apart from where DiT has them.
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    x, t = start(torch.tensor(SEEDS), (4, 8, 8)).double(), torch.tensor(TIMES)
    found = theirs(x, timestep=t, class_labels=torch.tensor(CLASSES)).sample
    write("diffusers", noise=found[:, :4])


def repa(folder: str) -> None:
    models, samplers = imported(folder, "models.sit", "samplers")
    heads = {"z_dims": [24], "projector_dim": 16, "encoder_depth": 1, "fused_attn": True, "qk_norm": False}
    network = filled(models.SiT(**SMALL, path_type="linear", decoder_hidden_size=384, **heads))
    layout("REPA", network)
    noise = start(torch.tensor(SEEDS), (4, 8, 8)).double()
    latents = samplers.euler_sampler(network, noise, torch.tensor(CLASSES), num_steps=STEPS, cfg_scale=CFG)
    write("REPA", latents=latents)


if __name__ == "__main__":
    sit(sys.argv[1])
    dit(sys.argv[2])
    repa(sys.argv[3])
