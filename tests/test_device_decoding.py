"""`embed --decode gpu`: all but the GPU's own decoder, for which Pillow stands in where there is no GPU."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dprune, image_bytes, write_tar
from PIL import ExifTags, Image, ImageOps
from safetensors.numpy import load_file, save_file
from torch import Tensor

from dprune.decoding import Images, Piece
from dprune.embedding import device_decoding
from dprune.embedding.device_decoding import DeviceDecoder, first_working, jpeg_decoders, turned
from dprune.embedding.encoded import EncodedImages
from dprune.embedding.geometry import Geometry, down_first, read_geometry, resize_like_pillow
from dprune.errors import UsageError
from dprune.formats.jpegs import plain_jpeg
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES = ((33, 47), (64, 64), (90, 31), (20, 25), (32, 400), (170, 40))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels whose resizing overshoots: half of them black or white."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.5, pixels // 128 * 255, pixels).astype(np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels that JPEG keeps, as photos have them."""
    return np.asarray(Image.fromarray(noise(4, 4, seed)).resize((width, height), Image.Resampling.BICUBIC))


def planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def rotated(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return jpeg(pixels, exif=exif)


def transform(resized: Any, cropped: Any, cubic: bool) -> Any:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

    mode = InterpolationMode.BICUBIC if cubic else InterpolationMode.BILINEAR
    return Compose([Resize(resized, interpolation=mode), CenterCrop(cropped), PILToTensor()])


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize(("resized", "cropped"), [(32, 28), (64, 64), ((40, 36), (40, 30)), ([33], (20, 25))])
def test_resizing_equals_pillows(resized: Any, cropped: Any, cubic: bool) -> None:
    steps = transform(resized, cropped, cubic)
    geometry = read_geometry(steps.transforms)
    assert geometry is not None
    rng = np.random.default_rng(0)
    shapes = [*SHAPES, *((int(h), int(w)) for h, w in rng.integers(1, 120, (30, 2)))]
    for number, (height, width) in enumerate(shapes):
        pixels = noise(height, width, number)
        found = resize_like_pillow(planes(pixels), geometry.window(width, height), geometry.size, geometry.cubic)
        assert torch.equal(found, steps(Image.fromarray(pixels))), (height, width)


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize("size", [(28, 28), (24, 17)])
def test_the_kernel_equals_the_readable_path(size: tuple[int, int], cubic: bool) -> None:
    resize = pytest.importorskip("dprune.kernels.resize")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    geometry = Geometry(32, cubic, size)
    images = [planes(noise(height, width, width)).to(device) for height, width in SHAPES]
    windows = [geometry.window(image.shape[2], image.shape[1]) for image in images]
    found = resize.resize_crop(images, windows, size, cubic)
    across = [not down_first(*pair) for pair in zip(images, windows, strict=True)]
    assert sum(across) >= 5
    for image, window, one, alike in zip(images, windows, found, across, strict=True):
        far = (one.int() - resize_like_pillow(image, window, size, cubic).int()).abs().max()
        # A GPU's fused operations may round a weight otherwise; the order of the passes changes more.
        assert far == 0 or not alike or (device.type == "cuda" and far <= 1)


def test_what_networks_do_to_images_is_read() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from timm.data import create_transform

    def by_timm(**options: Any) -> Geometry | None:
        return read_geometry(create_transform((3, 224, 224), normalize=False, **options).transforms)

    def by_clip(**options: Any) -> Geometry | None:
        steps = image_transform_v2(PreprocessCfg(**options), is_train=False).transforms
        return read_geometry(steps[:-1])

    assert by_timm(interpolation="bicubic", crop_pct=0.875) == Geometry(256, True, (224, 224))
    assert by_timm(interpolation="bilinear", crop_pct=1.0) == Geometry(224, False, (224, 224))
    assert by_timm(interpolation="bicubic", crop_mode="squash") == Geometry((256, 256), True, (224, 224))
    assert by_timm(interpolation="lanczos") is None
    assert by_timm(interpolation="bicubic", crop_mode="border") is None
    assert by_clip() == Geometry(224, True, (224, 224))
    assert by_clip(resize_mode="squash", interpolation="bilinear") == Geometry((224, 224), False, (224, 224))
    assert by_clip(resize_mode="longest") is None
    assert read_geometry(transform(20, 24, True).transforms) is None, "a border"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning(orientation: int) -> None:
    pixels = noise(5, 7)
    image = Image.open(io.BytesIO(rotated(pixels, orientation)))
    header = plain_jpeg(rotated(pixels, orientation))
    assert header is not None
    stored, upright = np.asarray(image), ImageOps.exif_transpose(image)
    assert (header.width, header.height) == (7, 5)
    assert header.upright == upright.size
    found = turned(planes(stored), header.orientation)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found, np.asarray(upright).transpose(2, 0, 1))


def test_which_jpegs_are_plain() -> None:
    pixels = noise(20, 30)
    for plain in (jpeg(pixels), jpeg(pixels, "L"), jpeg(pixels, optimize=True), jpeg(pixels, subsampling=0)):
        header = plain_jpeg(plain)
        assert header is not None
        assert (header.size, header.width, header.height, header.orientation) == (len(plain), 30, 20, 1)
    whole = jpeg(pixels)
    cut = (whole[:-2], whole[:200], whole + b"more", b"", b"\xff\xd8\xff\xd9")
    others = [jpeg(pixels, "CMYK"), jpeg(pixels, progressive=True), jpeg(pixels, keep_rgb=True), image_bytes(0), *cut]
    assert [plain_jpeg(other) for other in others] == [None] * len(others)
    assert plain_jpeg(rotated(pixels, 11)) is not None
    # By the rules of libjpeg, without JFIF's mark Adobe's decides, and without that the numbers of the channels.
    bare = whole[:2] + whole[20:]
    assert plain_jpeg(bare) is not None
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    assert plain_jpeg(bare[:2] + adobe + b"\x00" + bare[2:]) is None
    assert plain_jpeg(bare[:2] + adobe + b"\x01" + bare[2:]) is not None


def test_pixels_beyond_the_limit_are_pillows_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert plain_jpeg(jpeg(noise(20, 30))) is None


def stand_in(data: Sequence[Tensor]) -> list[Tensor]:
    """Decode as nvJPEG would: no turning, nothing for a damaged one of a batch, and its own limits."""
    images = []
    for one in data:
        content = one.numpy().tobytes()
        if b"refused" in content:
            raise RuntimeError("nvjpeg status 2")
        image = Image.open(io.BytesIO(content)).convert("RGB")
        images.append(planes(np.asarray(image))[:, int(b"misread" in content) :])
    return images


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has Pillow stand in for the GPU, and returns the sizes of the batches that it was given."""
    asked: list[int] = []

    def noted(data: list[Tensor]) -> list[Tensor]:
        asked.append(len(data))
        return stand_in(data)

    monkeypatch.setattr(device_decoding, "jpeg_decoders", lambda device: {"Pillow": noted})
    return asked


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of images of all kinds, good and bad."""
    folder, pixels = tmp_path_factory.mktemp("mixed"), [smooth(50 + 3 * i, 70 - i, i) for i in range(40)]
    damaged = bytearray(jpeg(pixels[0], comment=b"refused"))
    # Its tables stay whole, so that its header is read; what follows is no image to Pillow.
    at = damaged.index(b"\xff\xc4")
    damaged[at + 4 : at + 21] = b"\xff" * 17
    images = {
        "a": [jpeg(pixels[i]) for i in range(18)] + [jpeg(smooth(300, 40)), jpeg(smooth(40, 300))],
        "b": [image_bytes(1), image_bytes(2, suffix="webp"), jpeg(pixels[1], "CMYK"), jpeg(pixels[2], "L"),
              jpeg(pixels[3], progressive=True), jpeg(pixels[4])[:900], b"no image", bytes(damaged),
              jpeg(pixels[5], comment=b"refused"), jpeg(pixels[6], comment=b"misread"), jpeg(smooth(1, 4000)),
              *(rotated(pixels[i], i) for i in range(1, 9))],
        "c": [b"nothing"],
    }  # fmt: skip
    for shard, contents in images.items():
        samples = [((f"{shard}{i:02d}.jpg", content), (f"{shard}{i:02d}.cls", b"%d" % i)) for i, content in
                   enumerate(contents)]  # fmt: skip
        write_tar(folder / f"{shard}.tar", [member for pair in samples for member in pair])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    state = timm.create_model("resnet10t", num_classes=0).state_dict()
    save_file({name: value.numpy() for name, value in state.items()}, path)
    return path


def open_part(folder: Path, name: str) -> Any:
    return Store.open(folder, "features").part(name)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_the_decoder_differs(
    mixed: Path, weights: Path, tmp_path: Path, by_pillow: list[int], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Pillow as the decoder all parts are the same, bad images and their reasons too."""
    # What the thread-like image would become has more.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    asked = ("--model", "timm:resnet10t", "--weights", weights, "--image-size", 32, "--batch-size", 17,
             "--workers", workers, "--dtype", "float32", "--device", "cpu")  # fmt: skip
    dprune("embed", mixed, *asked, "-o", tmp_path / "cpu").ok()
    assert not by_pillow
    dprune("embed", mixed, *asked, "--decode", "gpu", "-o", tmp_path / "gpu").ok()
    assert by_pillow[:3] == [1, 17, 3], "the first is a trial"
    for name in ("a", "b", "c"):
        ours, theirs = (load_file(tmp_path / way / f"{name}.safetensors") for way in ("gpu", "cpu"))
        np.testing.assert_allclose(ours["features"], theirs["features"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(ours["label"], theirs["label"])
        logs = [open_part(tmp_path / way, name)["bad"] for way in ("gpu", "cpu")]
        assert logs[0] == logs[1]
        assert [entry["row"] for entry in logs[0]] == {"a": [], "b": [5, 6, 7, 10], "c": [0]}[name]


def test_bad_images_are_fatal_where_asked(mixed: Path, weights: Path, tmp_path: Path, by_pillow: list[int]) -> None:
    asked = ("--model", "timm:resnet10t", "--weights", weights, "--image-size", 32, "--workers", 0, "--device", "cpu")
    result = dprune("embed", mixed, *asked, "--decode", "gpu", "--strict", "-o", tmp_path / "f")
    result.fails(3, "b.tar: b05 cannot be decoded", "--strict")


def test_large_images_are_decoded_in_turns(mixed: Path, monkeypatch: pytest.MonkeyPatch, by_pillow: list[int]) -> None:
    monkeypatch.setattr(device_decoding, "PIXELS_AT_ONCE", 9000)
    images = EncodedImages(open_dataset([str(mixed / "a.tar")]).shards, transform(32, 32, True))
    cpu = torch.device("cpu")
    device = DeviceDecoder(images, Geometry(32, True, (32, 32)), cpu, device_decoding.jpeg_decoders(cpu)["Pillow"])
    piece = images[Piece(0, range(6))]
    out, bad, _ = device([piece])
    assert by_pillow == [2, 2, 2]
    assert not bad
    for number in range(6):
        image = Image.open(io.BytesIO(jpeg(smooth(50 + 3 * number, 70 - number, number))))
        assert torch.equal(out[number], transform(32, 32, True)(image))


def test_a_shared_record_says_where(shards: Path, weights: Path, tmp_path: Path, by_pillow: list[int]) -> None:
    asked = ("--model", "timm:resnet10t", "--weights", weights, "--image-size", 32, "--device", "cpu", "--dry-run")
    plan = [json.loads(dprune("embed", shards, *asked, *more, "--json", "-o", tmp_path / "f").ok().out)
            for more in ((), ("--decode", "gpu"))]  # fmt: skip
    options = [entry["provenance"]["options"] for entry in plan]
    assert options[1] == options[0] | {"decode": "gpu"}


def test_refusals(shards: Path, weights: Path, tmp_path: Path) -> None:
    gpu = ("--decode", "gpu", "-o", tmp_path / "f")
    dprune("embed", shards, "--model", "inception", *gpu).fails(2, "--decode gpu", "FID")
    dprune("embed", shards, "--model", "pixels", *gpu).fails(2, "--decode gpu", "pixels takes no such option")
    asked = ("--model", "timm:resnet10t", "--weights", weights, "--image-size", 32)
    dprune("embed", shards, *asked, "--device", "cpu", *gpu).fails(2, "--decode gpu", "needs a GPU")
    assert not (tmp_path / "f").exists()


def test_libraries_that_decode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("not compiled with nvJPEG support.\nat line 3")

    with pytest.raises(UsageError, match=r"on this GPU \(not compiled with nvJPEG support\): leave it out"):
        first_working({"a": fails, "b": fails})
    assert first_working({"a": fails, "b": stand_in}) is stand_in
    with pytest.raises(UsageError, match="c turns images"):
        first_working({"c": lambda data: [image.mT for image in stand_in(data)]})
    monkeypatch.setattr(device_decoding, "LIBRARIES", ("no_such_library", "json"))
    with pytest.raises(UsageError, match="neither torchvision nor torchcodec"):
        jpeg_decoders(torch.device("cuda"))


@GPU
def test_the_gpus_decoder(mixed: Path, weights: Path, tmp_path: Path) -> None:
    """Pixels differ from Pillow's by rounding and by enlarged colours; the same images are bad."""
    device, geometry = torch.device("cuda"), Geometry(32, True, (32, 32))
    steps, decode = transform(32, 32, True), first_working(jpeg_decoders(device))
    shards = open_dataset([str(mixed)]).shards
    ours, theirs = EncodedImages(shards, steps), Images(shards, steps)
    for number, count in ((0, 20), (1, 19), (2, 1)):
        piece = Piece(number, range(count))
        read, decoder = ours[piece], DeviceDecoder(ours, geometry, device, decode)
        out, bad, _ = decoder([read])
        assert torch.equal(out, decoder([read]).images)
        expected = theirs[piece]
        assert [entry["row"] for entry in [*read.bad, *bad]] == [entry["row"] for entry in expected.bad]
        assert (out.cpu().float() - expected.images.float()).abs().mean() < 3
