"""Writes the files beside it: what the code of others names its tensors, and what it makes of an image.

    python tests/data/vaes/make.py TAMING LATENT_DIFFUSION LLAMAGEN

takes work trees of CompVis/taming-transformers (3ba01b2), CompVis/latent-diffusion (a506df5) and FoundationVision/
LlamaGen (ce98ec4), and diffusers 0.42.1 and einops from the environment. Weights are those of `drawn`, so that names
and shapes are all that a test needs; outputs are computed in float64 and kept in float32.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from foreign import SEEN, drawn, image, layout_text  # noqa: E402


def stub(name: str, **content: object) -> None:
    """Stand in for what their files import and the networks do without."""
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


def filled(network: nn.Module) -> nn.Module:
    state = {name: torch.from_numpy(drawn(name, tuple(value.shape))) for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return network.double().eval().requires_grad_(False)


def write(name: str, network: nn.Module, outputs: dict[str, torch.Tensor]) -> None:
    (HERE / f"{name}.layout").write_text(layout_text({n: tuple(v.shape) for n, v in network.state_dict().items()}))
    kept = {key: value.numpy() for key, value in outputs.items()}
    kept["decoded"] = kept["decoded"][SEEN].astype(np.float32)
    kept = {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in kept.items()}
    np.savez_compressed(HERE / f"{name}.npz", **kept)
    print(name, len(network.state_dict()), {key: value.shape for key, value in kept.items()})


def decoded(network: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    found = network.decode(latents)
    return getattr(found, "sample", found)


def with_moments(name: str, network: nn.Module) -> None:
    x = torch.from_numpy(image()).double()
    moments = network.quant_conv(network.encoder(x)) if network.quant_conv is not None else network.encoder(x)
    mean = moments.chunk(2, dim=1)[0]
    write(name, network, {"moments": moments, "decoded": decoded(network, mean)})


def with_codes(name: str, network: nn.Module) -> None:
    x = torch.from_numpy(image()).double()
    encoded = network.quant_conv(network.encoder(x))
    if hasattr(network.quantize, "proj"):
        # Drawing a code by noise, as `forward` does even when nothing is trained, is not what anybody encodes by.
        codes = network.quantize.proj(encoded).argmax(1)
        latents = nn.functional.embedding(codes, network.quantize.embed.weight).permute(0, 3, 1, 2)
    else:
        latents, _, (_, _, codes) = network.quantize(encoded)
    write(name, network, {"encoded": encoded, "codes": codes.flatten(), "decoded": decoded(network, latents)})


def diffusers_networks() -> None:
    from diffusers import AutoencoderKL, VQModel

    def made(kind: type, folder: str | None = None, **config: object) -> nn.Module:
        levels = len(config["block_out_channels"])
        types_ = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
        network = filled(kind(**{**types_, **config}))
        if folder:
            (HERE / f"{folder}.json").write_text(network.to_json_string())
        return network

    sd = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 256}
    with_moments("sd", made(AutoencoderKL, "sd", **sd))
    small = {"block_out_channels": [32, 64, 64], "layers_per_block": 1}
    with_moments("small", made(AutoencoderKL, "small", **small, norm_num_groups=16, sample_size=64))
    attentive = {"down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
                 "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}  # fmt: skip
    sd3 = {**small, **attentive, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    with_moments("small-sd3", made(AutoencoderKL, "small-sd3", **sd3, scaling_factor=1.5305, shift_factor=0.0609))
    with_codes("small-vq", made(VQModel, "small-vq", **small, num_vq_embeddings=64, vq_embed_dim=6))


def compvis_networks(taming: str, latent_diffusion: str) -> None:
    class Module(nn.Module):
        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

    stub("pytorch_lightning", LightningModule=Module)
    stub("main", instantiate_from_config=lambda _: nn.Identity())
    sys.path.insert(0, taming)
    from taming.models.vqgan import GumbelVQ, VQModel

    def f16(**changes: object) -> dict[str, object]:
        return {"double_z": False, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0,
                **changes}  # fmt: skip

    with_codes("taming-f16", filled(VQModel(f16(), None, 1024, 256)))
    f8 = f16(ch_mult=[1, 1, 2, 4], attn_resolutions=[32])
    with_codes("taming-gumbel-f8", filled(GumbelVQ(f8, None, 8192, 256, None)))
    sys.path.insert(0, latent_diffusion)
    stub("ldm.util", instantiate_from_config=lambda _: nn.Identity())
    from ldm.models.autoencoder import AutoencoderKL
    from ldm.models.autoencoder import VQModel as LatentVQ

    kl = f16(double_z=True, z_channels=16)
    with_moments("ldm-kl-f16", filled(AutoencoderKL(kl, None, 16)))
    vq = f16(z_channels=4, ch_mult=[1, 2, 2, 4], attn_resolutions=[32])
    with_codes("ldm-vq-f8", filled(LatentVQ(vq, None, 256, 4)))
    small = f16(z_channels=3, ch=32, ch_mult=[1, 2, 4], attn_resolutions=[], num_res_blocks=1, attn_type="none")
    with_codes("small-ldm-noattn", filled(LatentVQ(small, None, 128, 3)))


def llamagen_networks(llamagen: str) -> None:
    sys.path.insert(0, llamagen)
    from tokenizer.tokenizer_image.vq_model import VQ_models

    with_codes("llamagen-f16", filled(VQ_models["VQ-16"]()))


if __name__ == "__main__":
    diffusers_networks()
    compvis_networks(*sys.argv[1:3])
    llamagen_networks(sys.argv[3])
