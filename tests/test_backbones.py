"""Networks of timm and open_clip through `dprune embed`, with weights made here: no hub is asked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import Result, dprune, dprune_process, sample, torchrun, write_tar
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

from dprune.embedding.weights import HubFile, answers, fetch
from dprune.errors import InputError
from dprune.formats.stores import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

RESNET = ("--model", "timm:resnet10t", "--image-size", "64")


def embed(shards: object, store: object, *args: object) -> Result:
    return dprune("embed", shards, "-o", store, "--workers", 0, "--device", "cpu", *args)


def features(store: Path, shard: str = "000000") -> np.ndarray:
    return load_file(store / f"{shard}.safetensors")["features"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Image.Image]]:
    """A shard of images of several shapes, and the images."""
    images, members = [], []
    for number, size in enumerate([(90, 70), (64, 64), (40, 130), (300, 200)]):
        smooth = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        images.append(Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC))
        buffer = io.BytesIO()
        images[-1].save(buffer, "PNG")
        members.append((f"{number}.png", buffer.getvalue()))
    return write_tar(tmp_path_factory.mktemp("photos") / "000000.tar", members), images


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Give normalisation layers statistics of their own, so that every one of them shows in the features."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.7, 1.3)
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> Any:
    import timm

    torch.manual_seed(0)
    return shaken(timm.create_model("resnet10t", num_classes=10))


@pytest.fixture(scope="module")
def resnet_file(resnet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file(resnet.state_dict(), path)
    return path


def by_timm(model: Any, images: list[Image.Image], **config: Any) -> np.ndarray:
    """What timm's own transform and forward pass give."""
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config(args=config, model=model), is_training=False)
    with torch.inference_mode():
        maps = model.forward_features(torch.stack([transform(image) for image in images]))
        return model.forward_head(maps, pre_logits=True).numpy()


def test_timm(photos: Any, resnet: Any, resnet_file: Path, tmp_path: Path) -> None:
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", resnet_file, "--dtype", "float32").ok()
    expected = by_timm(resnet, photos[1], input_size=(3, 64, 64))
    assert expected.std() > 0.01
    np.testing.assert_allclose(features(tmp_path / "f"), expected, rtol=1e-4, atol=1e-5)
    record = json.loads((tmp_path / "f" / "manifest.json").read_text())["provenance"]
    assert len(record["options"]["weights"]) == 64
    assert record["options"]["precision"] == "float32"


def test_crop_pct_and_own_size(photos: Any, resnet: Any, resnet_file: Path, tmp_path: Path) -> None:
    options = ("--model", "timm:resnet10t", "--weights", resnet_file, "--dtype", "float32")
    embed(photos[0], tmp_path / "f", *options, "--image-size", 96, "--crop-pct", 0.5).ok()
    embed(photos[0], tmp_path / "g", *options).ok()
    cropped = by_timm(resnet, photos[1], input_size=(3, 96, 96), crop_pct=0.5)
    np.testing.assert_allclose(features(tmp_path / "f"), cropped, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features(tmp_path / "g"), by_timm(resnet, photos[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["half", "torch", "wrapped", "headless"])
def test_forms_of_weights(form: str, photos: Any, resnet: Any, tmp_path: Path) -> None:
    state, path = resnet.state_dict(), tmp_path / "w.any"
    if form == "half":
        save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    elif form == "torch":
        torch.save(state, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        save_file({key: value for key, value in state.items() if not key.startswith("fc.")}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path, "--dtype", "float32").ok()
    expected = by_timm(resnet, photos[1], input_size=(3, 64, 64))
    tolerance = 0.02 if form == "half" else 1e-4
    np.testing.assert_allclose(features(tmp_path / "f"), expected, rtol=tolerance, atol=tolerance / 10)


def test_batches_and_precision(photos: Any, resnet_file: Path, tmp_path: Path) -> None:
    options = (*RESNET, "--weights", resnet_file, "--dtype", "float32")
    embed(photos[0], tmp_path / "one", *options).ok()
    embed(photos[0], tmp_path / "more", *options, "--batch-size", 3).ok()
    embed(photos[0], tmp_path / "bf16", *options, "--precision", "bf16").ok()
    one, more, bf16 = (features(tmp_path / name) for name in ("one", "more", "bf16"))
    np.testing.assert_allclose(more, one, rtol=1e-4, atol=1e-5)
    assert 1e-4 < np.abs(bf16 - one).max() < 0.1 * np.abs(one).max()
    embed(photos[0], tmp_path / "one", *options, "--precision", "bf16").fails(3, "precision: float32, not bfloat16")


def test_transform_is_the_library_s_to_rounding(photos: Any, resnet_file: Path) -> None:
    from timm.data import create_transform, resolve_data_config

    from dprune.embedding.backbones import Backbone
    from dprune.embedding.forward import Forward
    from dprune.embedding.timm_backbone import load_timm

    backbone = load_timm("resnet10t", resnet_file, 64, None)
    plain = Backbone(backbone.transform, backbone.mean, backbone.std, torch.nn.Flatten())
    found = Forward(plain, torch.device("cpu"), torch.float32, normalize=False)(
        [torch.stack([backbone.transform(image) for image in photos[1]])]
    )[0]
    own = create_transform(**resolve_data_config({"input_size": (3, 64, 64)}, model=backbone.module), is_training=False)
    assert torch.equal(found, torch.stack([own(image) for image in photos[1]]).flatten(1))


@pytest.mark.slow
def test_dinov2_at_224(photos: Any, tmp_path: Path) -> None:
    """The published weights are for 518 pixels: positions are resampled, as timm does it."""
    import timm

    torch.manual_seed(0)
    name = "vit_small_patch14_dinov2.lvd142m"
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    embed(photos[0], tmp_path / "f", "--model", "dinov2-s", "--weights", path, "--dtype", "float32").ok()
    model = timm.create_model(name, pretrained=True, num_classes=0, img_size=224,
                              pretrained_cfg_overlay={"file": str(path)}).eval()  # fmt: skip
    expected = by_timm(model, photos[1], input_size=(3, 224, 224))
    assert features(tmp_path / "f").shape == (4, 384)
    np.testing.assert_allclose(features(tmp_path / "f"), expected, rtol=1e-3, atol=1e-4)
    options = json.loads((tmp_path / "f" / "manifest.json").read_text())["provenance"]["options"]
    assert (options["model"], options["image_size"]) == (f"timm:{name}", 224)
    embed(photos[0], tmp_path / "g", "--model", "dinov2-s", "--weights", path, "--image-size", 225).fails(
        2, "--image-size 225", "a multiple of 14", "such as 224"
    )
    assert not (tmp_path / "g").exists()


def test_sizes_that_do_not_fit(photos: Any, tmp_path: Path) -> None:
    import timm

    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    options = ("--model", "timm:test_vit", "--weights", path)
    embed(photos[0], tmp_path / "f", *options, "--image-size", 8).fails(2, "--image-size 8", "cannot take")
    embed(photos[0], tmp_path / "f", *options, "--image-size", 40).fails(2, "--image-size 40", "a multiple of 16")
    embed(photos[0], tmp_path / "f", *options, "--image-size", 96).ok()
    assert features(tmp_path / "f").shape == (4, 64)


def test_options_of_other_networks(photos: Any, resnet_file: Path, tmp_path: Path) -> None:
    for model, option, value in (
        ("pixels", "--weights", resnet_file),
        ("pixels", "--crop-pct", 0.5),
        ("pixels", "--precision", "bf16"),
        ("inception", "--image-size", 64),
        ("inception", "--precision", "fp16"),
        ("clip-b32", "--crop-pct", 0.5),
        ("dinov2-b", "--pca", 4),
        ("timm:resnet10t", "--color", "grey"),
    ):
        embed(photos[0], tmp_path / "f", "--model", model, option, value).fails(2, option, "takes no such option")


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("dinov2-base", 2, ["did you mean dinov2-"]),
        ("resnet", 2, ["timm:NAME"]),
        ("timm:", 2, ["no such network"]),
        ("timm:resnet10tt", 3, ["did you mean resnet10t"]),
        ("timm:resnet10t.nope", 3, ["use resnet10t.c3_in1k"]),
        ("open_clip:ViT-B-23/openai", 3, ["did you mean ViT-B-"]),
        ("open_clip:ViT-B-32-quickgelu/opena", 3, ["openai"]),
        ("open_clip:ViT-B-32", 2, ["name a tag"]),
        ("timm:test_resnet_nope", 3, ["no such network"]),
    ],
)
def test_names_that_do_not_exist(model: str, code: int, words: list[str], photos: Any, tmp_path: Path) -> None:
    embed(photos[0], tmp_path / "f", "--model", model).fails(code, f"--model {model}", *words)
    assert not (tmp_path / "f").exists()


def test_weights_that_do_not_fit(photos: Any, resnet: Any, resnet_file: Path, tmp_path: Path) -> None:
    embed(photos[0], tmp_path / "f", "--model", "timm:test_vit", "--weights", resnet_file).fails(
        3, str(resnet_file), "does not fit timm:test_vit", "Missing key", "cls_token"
    )
    path = tmp_path / "w.safetensors"
    state = resnet.state_dict()
    save_file(state | {"layer1.0.conv1.weight": torch.zeros(3, 3)}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, "size mismatch for layer1.0.conv1.weight")
    save_file({key: value for key, value in state.items() if key != "layer4.0.bn2.bias"}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, 'Missing key: "layer4.0.bn2.bias"')
    save_file(state | {"extra": torch.zeros(1)}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, 'Unexpected key: "extra"')
    assert not (tmp_path / "f").exists()


class Trap:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/dprune-trap-was-run"),)


def test_damaged_and_hostile_weights(photos: Any, resnet: Any, resnet_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": resnet.state_dict(), "trap": Trap()}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, str(path), "'getattr'", "plain tensors")
    assert not Path("/tmp/dprune-trap-was-run").exists()
    for data, words in ((b"", "neither"), (b"junk", "neither"), (resnet_file.read_bytes()[:5000], "not a whole")):
        path.write_bytes(data)
        embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, str(path), words)
    torch.save([1, 2], path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, "holds a list")
    torch.save({"lr": 1}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, "no table of tensors")
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", tmp_path / "none").fails(3, "no such file")
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", tmp_path).fails(3, "is a folder")


def test_features_beyond_float16(photos: Any, resnet: Any, tmp_path: Path) -> None:
    path, state = tmp_path / "w.safetensors", resnet.state_dict()
    save_file(state | {"layer4.0.bn2.weight": state["layer4.0.bn2.weight"] * 1e7}, path)
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", path).fails(3, "000000.tar", "--dtype float32")
    embed(photos[0], tmp_path / "g", *RESNET, "--weights", path, "--dtype", "float32").ok()
    save_file(state | {"layer4.0.bn2.weight": state["layer4.0.bn2.weight"] * torch.inf}, path)
    embed(photos[0], tmp_path / "h", *RESNET, "--weights", path, "--dtype", "float32").fails(3, "not finite")


@pytest.mark.slow
def test_offline_fails_within_seconds(photos: Any, tmp_path: Path) -> None:
    """Nothing is ever embedded with random weights, and nobody waits a minute to hear it."""
    began = time.monotonic()
    env = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    dprune_process("embed", photos[0], "--model", "dinov2-b", "-o", tmp_path / "f", env=env).fails(
        3, "timm/vit_base_patch14_dinov2.lvd142m/model.safetensors", str(tmp_path / "hub"),
        "http://127.0.0.1:9 does not answer", "hf download", "--weights FILE",
    )  # fmt: skip
    assert time.monotonic() - began < 30
    assert not (tmp_path / "f").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path / "hub"


@pytest.mark.parametrize("model", ["timm:resnet10t", "clip-b32", "open_clip:ViT-B-32/laion2b_s34b_b79k"])
def test_offline_mode_is_honoured(model: str, hub: Path, photos: Any, tmp_path: Path) -> None:
    words = ("HF_HUB_OFFLINE is set", str(hub), ".safetensors", "--weights FILE")
    embed(photos[0], tmp_path / "f", "--model", model).fails(3, *words)
    assert not (tmp_path / "f").exists()


def test_a_network_without_published_weights(hub: Path, photos: Any, tmp_path: Path) -> None:
    embed(photos[0], tmp_path / "f", "--model", "timm:resnet18d_nope").fails(3, "no such network")
    embed(photos[0], tmp_path / "f", "--model", "timm:vit_giant_patch14_224").fails(3, "no published weights")


def cache_resnet(hub: Path, model: torch.nn.Module) -> Path:
    """Put a network into the hub's cache as its published weights."""
    repo = hub / "models--timm--resnet10t.c3_in1k"
    for folder in (repo / "refs", repo / "snapshots" / "abc"):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text("abc")
    path = repo / "snapshots" / "abc" / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_the_hub_s_cache_is_used(hub: Path, photos: Any, tmp_path: Path) -> None:
    import timm

    model = shaken(timm.create_model("resnet10t"))
    cache_resnet(hub, model)
    embed(photos[0], tmp_path / "f", *RESNET, "--dtype", "float32").ok()
    expected = by_timm(model, photos[1], input_size=(3, 64, 64))
    np.testing.assert_allclose(features(tmp_path / "f"), expected, rtol=1e-4, atol=1e-5)
    record = json.loads((tmp_path / "f" / "manifest.json").read_text())["provenance"]
    assert record["options"]["weights"] == "hub"


def test_weights_of_the_hub_that_change(hub: Path, resnet: Any, shards: Path, tmp_path: Path) -> None:
    """The record only says that the weights are the hub's: the parts tell which these were."""
    import timm

    path = cache_resnet(hub, resnet)
    embed(shards, tmp_path / "f", *RESNET).ok()
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [part["weights"] for part in Store.open(tmp_path / "f", "features").parts] == [before] * 3
    cache_resnet(hub, timm.create_model("resnet10t"))
    (tmp_path / "f" / "000001.safetensors").unlink()
    embed(shards, tmp_path / "f", *RESNET).fails(3, "000000.tar and this run", before[:12], "remove the folder")
    assert not (tmp_path / "f" / "000001.safetensors").exists()


def test_weights_of_a_file_are_in_the_record_alone(photos: Any, resnet_file: Path, tmp_path: Path) -> None:
    embed(photos[0], tmp_path / "f", *RESNET, "--weights", resnet_file).ok()
    assert "weights" not in Store.open(tmp_path / "f", "features").parts[0]


def test_only_a_gpu_s_batches_set_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is the process's, so the threads of the CPU must leave it alone; tensors of `meta` need no device."""
    from dprune.embedding.backbones import Backbone
    from dprune.embedding.forward import Forward

    entered = []

    @contextlib.contextmanager
    def flags(**values: bool) -> Iterator[None]:
        entered.append(values)
        yield

    monkeypatch.setattr(torch.backends.cudnn, "flags", flags)
    backbone = Backbone(lambda _: torch.zeros(3, 4, 4), (0.0,) * 3, (1.0,) * 3, torch.nn.Flatten())
    pieces = [torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)]
    Forward(backbone, torch.device("cpu"), torch.float32, normalize=False)(pieces)
    assert entered == []
    found = Forward(backbone, torch.device("meta"), torch.float32, normalize=False)(pieces)
    assert found[0].shape == (3, 48)
    assert entered == [{"enabled": True, "allow_tf32": False}]


def test_download(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"weights")

        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub = HubFile("timm:x", "", (), f"http://127.0.0.1:{server.server_port}/a/w.pth", tmp_path / "cache")
        path = fetch(hub)
        server.shutdown()
        thread.join()
    assert path.read_bytes() == b"weights"
    assert fetch(hub) == path
    path.unlink()
    with pytest.raises(InputError, match=r"does not answer: download it into that folder"):
        fetch(hub)


@pytest.mark.slow
def test_a_host_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        assert not answers(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 8


TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CLIP architecture with a published tag, known to open_clip for one test, and its weights."""
    import open_clip
    from open_clip import factory, pretrained

    monkeypatch.setitem(factory._MODEL_CONFIGS, "dprune-tiny", TINY)
    tag = pretrained._pcfg(hf_hub="dprune/tiny/", quick_gelu=True, mean=(0.5, 0.4, 0.3), interpolation="bilinear")
    monkeypatch.setitem(pretrained._PRETRAINED, "dprune-tiny", {"odd": tag})
    torch.manual_seed(0)
    model = open_clip.create_model("dprune-tiny", load_weights=False, force_quick_gelu=True)
    torch.nn.init.normal_(model.visual.ln_post.bias)
    path = tmp_path / "clip.safetensors"
    save_file(model.state_dict(), path)
    return path


def by_open_clip(path: Path, images: list[Image.Image], **options: Any) -> np.ndarray:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("dprune-tiny", pretrained=str(path), **options)
    with torch.inference_mode():
        return model.eval().encode_image(torch.stack([preprocess(image) for image in images])).numpy()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_clip_keeps_the_settings_of_its_tag(photos: Any, tiny_clip: Path, tmp_path: Path) -> None:
    options = ("--weights", tiny_clip, "--dtype", "float32")
    embed(photos[0], tmp_path / "f", "--model", "open_clip:dprune-tiny/odd", *options).ok()
    embed(photos[0], tmp_path / "g", "--model", "open_clip:dprune-tiny", *options).ok()
    tagged = by_open_clip(tiny_clip, photos[1], force_quick_gelu=True, image_mean=(0.5, 0.4, 0.3),
                          image_interpolation="bilinear")  # fmt: skip
    np.testing.assert_allclose(features(tmp_path / "f"), tagged, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features(tmp_path / "g"), by_open_clip(tiny_clip, photos[1]), rtol=1e-4, atol=1e-5)
    assert np.abs(features(tmp_path / "f") - features(tmp_path / "g")).max() > 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_clip_at_another_size(photos: Any, tiny_clip: Path, tmp_path: Path) -> None:
    options = ("--model", "open_clip:dprune-tiny", "--weights", tiny_clip, "--dtype", "float32")
    embed(photos[0], tmp_path / "f", *options, "--image-size", 48).ok()
    expected = by_open_clip(tiny_clip, photos[1], force_image_size=48)
    np.testing.assert_allclose(features(tmp_path / "f"), expected, rtol=1e-4, atol=1e-5)
    embed(photos[0], tmp_path / "g", *options, "--image-size", 50).fails(2, "--image-size 50", "a multiple of 8")


def test_clip_weights_that_do_not_fit(photos: Any, tiny_clip: Path, resnet_file: Path, tmp_path: Path) -> None:
    options = ("--model", "open_clip:dprune-tiny/odd")
    embed(photos[0], tmp_path / "f", *options, "--weights", resnet_file).fails(3, str(resnet_file), "does not fit")
    tiny_clip.write_bytes(tiny_clip.read_bytes()[:999])
    embed(photos[0], tmp_path / "f", *options, "--weights", tiny_clip).fails(3, str(tiny_clip), "not a whole")


def test_the_short_names_exist() -> None:
    import open_clip
    import timm

    from dprune.embedding.settings import SHORT_NAMES

    for name in SHORT_NAMES.values():
        library, _, rest = name.partition(":")
        if library == "timm":
            assert rest in timm.list_models(pretrained=True)
        else:
            arch, _, tag = rest.partition("/")
            assert open_clip.get_pretrained_cfg(arch, tag)["quick_gelu"]


@pytest.mark.slow
def test_ways_to_share_the_work(resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, two tasks of an array and torchrun, which allows a process one thread, make the same bytes."""
    shards = tmp_path / "shards"
    for number in range(3):
        write_tar(shards / f"{number:06d}.tar", [m for i in range(21) for m in sample(f"{number}-{i}", i, i)])
    options = (*RESNET, "--weights", resnet_file)
    embed(shards, tmp_path / "one", *options).ok()
    task = ("embed", shards, *options, "--device", "cpu", "--workers", "1")
    dprune_process(*task, "-o", tmp_path / "tasks", env={"RANK": "1", "WORLD_SIZE": "2"}).ok()
    with monkeypatch.context() as environment:
        environment.setenv("RANK", "0")
        environment.setenv("WORLD_SIZE", "2")
        embed(shards, tmp_path / "tasks", *options).ok()
    done = torchrun(*task, "-o", tmp_path / "group").ok()
    assert done.err.count("shards made") == 1
    one, tasks, group = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "tasks", "group")
    )
    assert one == tasks
    assert one == group


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm.data", "open_clip", "torchvision"])
def test_libraries_are_imported_without_the_compiler(library: str) -> None:
    code = f"""
import sys
from dprune.models.imports import without_compiler
disable = __import__("torch").compiler.disable
with without_compiler():
    import {library}
assert "torch._dynamo" not in sys.modules
import torch, torchvision
assert torch.compiler.disable is disable
from torchvision.ops.roi_align import is_compile_supported
from torch._dynamo.utils import is_compile_supported as real
assert is_compile_supported("cpu") == real("cpu")
with without_compiler():
    assert hasattr(sys.modules["torch._dynamo"], "optimize")
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_nothing_is_drawn_that_is_loaded(resnet: Any, resnet_file: Path) -> None:
    from dprune.embedding.timm_backbone import load_timm

    before = torch.get_rng_state()
    module = load_timm("resnet10t", resnet_file, 64, None).module
    assert torch.equal(torch.get_rng_state(), before)
    expected = {name: value for name, value in resnet.state_dict().items() if not name.startswith("fc.")}
    found = module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
