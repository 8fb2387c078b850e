"""Images that nobody vouches for."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sample, write_tar
from PIL import Image, features

from dprune.decoding import CentreCrop, Images, Piece
from dprune.errors import BadImage
from dprune.formats.images import check_shape, decode_image, encode_image, readable_suffixes, resize_image
from dprune.formats.shards import open_dataset

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_images_are_decoded_whatever_their_name() -> None:
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode_image(POSTSCRIPT)
    buffer = io.BytesIO()
    Image.new("P", (5, 4)).save(buffer, "GIF")
    assert decode_image(buffer.getvalue()).size == (5, 4)


def encoded(image: Image.Image, form: str = "TIFF", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


DEEP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
BIG_ENDIAN = Image.frombytes("I;16B", (16, 16), DEEP.astype(">u2").tobytes())
TWELVE_BITS = (
    b"II*\0\x08\0\0\0\x07\0" + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in
    [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 98), (279, 3)]) + bytes(4) + b"\x80\x0f\xff"
)  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(DEEP), "PNG"),
        encoded(Image.fromarray(DEEP)),
        encoded(BIG_ENDIAN),
        encoded(Image.fromarray(DEEP), "JPEG2000"),
        b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes(),
        encoded(Image.fromarray((DEEP / 65535).astype(np.float32))),
        b"Pf 16 16 -1.0\n" + np.flipud(DEEP / 65535).astype("<f4").tobytes(),
    ],
    ids=["png", "tiff", "big-endian tiff", "jpeg2000", "pgm", "float tiff", "pfm"],
)
def test_deep_greys_are_scaled_by_the_range_of_their_type(data: bytes) -> None:
    pixels = np.asarray(decode_image(data))
    assert (pixels == (DEEP // 257)[..., None]).all()


def test_greys_of_twelve_bits() -> None:
    assert np.asarray(decode_image(TWELVE_BITS))[0, :, 0].tolist() == [0x80, 0xFF]


def test_deep_greys_are_turned_upright_and_white_may_be_zero() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    for form in ("PNG", "TIFF"):
        assert np.asarray(decode_image(encoded(turned, form, exif=exif)))[..., 0].tolist() == [[0], [255]]
    assert np.asarray(decode_image(encoded(turned, tiffinfo={262: 0})))[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize("values", [[0.0, 255.0], [0.0, 1.5], [-0.1, 1.0], [0.5, float("nan")], [0.0, float("inf")]])
def test_floats_of_an_unknown_range_are_refused(values: list[float]) -> None:
    with pytest.raises(BadImage, match="floats that are not from 0 to 1"):
        decode_image(encoded(Image.fromarray(np.array([values], dtype=np.float32))))


def test_integers_of_an_unknown_range_are_refused() -> None:
    with pytest.raises(BadImage, match="32 bits or with a sign"):
        decode_image(encoded(Image.fromarray(np.array([[0, 100_000]], dtype=np.int32))))


@pytest.mark.parametrize(
    ("image", "form", "options", "expected"),
    [
        (Image.new("1", (1, 1), 1), "PNG", {}, [255, 255, 255]),
        (Image.new("1", (1, 1), 1), "TIFF", {}, [255, 255, 255]),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF", {}, [255, 0, 0]),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", {"quality": 100}, [254, 0, 0]),
        (Image.new("LA", (1, 1), (0, 0)), "PNG", {}, [255, 255, 255]),
        (Image.new("LA", (1, 1), (0, 255)), "PNG", {}, [0, 0, 0]),
        (Image.new("P", (1, 1), 0), "PNG", {"transparency": 0}, [255, 255, 255]),
        (Image.new("P", (1, 1), 0), "GIF", {"transparency": 0}, [255, 255, 255]),
    ],
)
def test_every_mode_becomes_rgb_over_white(
    image: Image.Image, form: str, options: dict[str, Any], expected: list[int]
) -> None:
    pixels = np.asarray(decode_image(encoded(image, form, **options)))
    assert abs(pixels[0, 0].astype(int) - expected).max() <= 2


def test_what_a_suffix_promises_is_decoded() -> None:
    known = readable_suffixes()
    assert {"jpg", "jfif", "jpe", "png", "webp", "bmp", "gif", "pgm", "ppm", "tif", "jp2"} <= set(known)
    assert not {"ps", "eps", "pdf", "mpg", "wmf", "tga"} & set(known)
    assert ("avif" in known) == features.check("avif")
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    for form in sorted(set(known.values()) & set(Image.SAVE)):
        assert abs(np.asarray(decode_image(encoded(picture, form)), int)[0, 0] - [200, 100, 50]).max() <= 3, form


def test_threads_are_not_blown_up() -> None:
    with pytest.raises(BadImage, match="too long and thin"):
        resize_image(Image.new("RGB", (1, 30_000)), 256, "none")
    assert resize_image(Image.new("RGB", (1, 30_000)), 256, "center").size == (256, 256)
    check_shape((4000, 4000))


def test_what_a_format_cannot_hold_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="cannot be written as webp"):
        encode_image(Image.new("RGB", (20_000, 1)), "webp")


def test_what_cannot_be_decoded_is_black_and_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("a", 1, 4), ("b.png", b"junk"), ("b.cls", b"7"), *sample("c", 2)])
    decoded = Images(open_dataset([str(tmp_path / "a.tar")]).shards, CentreCrop(16))[Piece(0, [2, 1, 0])]
    assert [int(image.max()) > 0 for image in decoded.images] == [True, False, True]
    assert decoded.labels.tolist() == [-1, 7, 4]
    assert [(entry["row"], entry["key"]) for entry in decoded.bad] == [(1, "b")]
    assert not decoded.error
