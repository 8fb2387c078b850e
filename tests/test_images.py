"""Images that nobody vouches for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from conftest import sample, write_tar
from PIL import Image

from dprune.decoding import CentreCrop, Images, Piece
from dprune.errors import BadImage
from dprune.formats.images import check_shape, decode_image, encode_image, resize_image
from dprune.formats.shards import open_dataset

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_images_are_decoded_whatever_their_name() -> None:
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode_image(POSTSCRIPT)
    buffer = io.BytesIO()
    Image.new("P", (5, 4)).save(buffer, "GIF")
    assert decode_image(buffer.getvalue()).size == (5, 4)


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
