"""dprune pack of .npz archives of images, as guided-diffusion's scripts and other samplers write them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, members
from damage import damaged
from PIL import Image

from dprune.formats import npz_images
from dprune.formats.class_names import ClassNames
from dprune.formats.npz_images import NpzImages
from dprune.packing.npz import NpzSource
from dprune.packing.table_columns import TableChoice


def drawn(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pack(source: Path, output: Path, *args: object) -> dict[str, Any]:
    """What a pack says in JSON."""
    summary: dict[str, Any] = json.loads(dprune("pack", source, "-o", output, "--workers", 0, "--json", *args).ok().out)
    return summary


def refused(source: Path, *args: object) -> Result:
    return dprune("pack", source, "-o", source.with_name("refused"), "--workers", 0, *args)


def images(folder: Path) -> np.ndarray[Any, Any]:
    found = [data for name, data in members(folder).items() if name.endswith(".png")]
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in found])


def labels(folder: Path) -> list[int]:
    return [int(data) for name, data in members(folder).items() if name.endswith(".cls")]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_guided_diffusion_writes(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # np.savez(out_path, arr, label_arr) at the end of its image_sample.py.
    arr, label_arr = drawn(7, 5, 6, 3), np.arange(7) % 3
    save(tmp_path / "samples_7x5x6x3.npz", arr, label_arr)
    monkeypatch.setattr(npz_images, "BLOCK_BYTES", 2 * 5 * 6 * 3)
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        command = ["pack", tmp_path / "samples_7x5x6x3.npz", "-o", out, "--shard-size", 3, "--workers", workers]
        dprune(*command).ok()
        assert np.array_equal(images(out), arr)
        assert labels(out) == label_arr.tolist()
        assert list(members(out))[:3] == ["00000000.png", "00000000.cls", "00000001.png"]
        assert "up to date" in dprune(*command).ok().err
    (out / "000001.tar").unlink()
    dprune(*command).ok()
    assert np.array_equal(images(out), arr)
    small = pack(tmp_path / "samples_7x5x6x3.npz", tmp_path / "small", "--size", 4)
    assert (small["samples"], images(tmp_path / "small").shape) == (7, (7, 4, 4, 3))


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 5, 6, 3), (4, 1, 1, 3), (4, 3, 3, 3)])
def test_shapes_of_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arr = drawn(*shape)
    np.savez(tmp_path / "x.npz", images=arr)
    assert pack(tmp_path / "x.npz", tmp_path / "out")["samples"] == 4
    assert np.array_equal(images(tmp_path / "out"), arr[..., 0] if shape[3:] == (1,) else arr)


def test_what_sample_writes_packs_back(tmp_path: Path, shards: Path) -> None:
    """The archive that `sample --npz` makes of shards, by the code that makes it."""
    from dprune.sampling.exports import NpzExport

    NpzExport.of(str(tmp_path / "all.npz"), {"options": {}}).publish(sorted(shards.glob("*.tar")), ClassNames())
    pack(tmp_path / "all.npz", tmp_path / "out")
    assert np.array_equal(images(tmp_path / "out"), images(shards))
    assert labels(tmp_path / "out") == [row % 3 for row in range(18)]


def test_arrays_that_are_named(tmp_path: Path) -> None:
    arr = drawn(3, 4, 4, 3)
    np.savez(tmp_path / "x.npz", faces=arr, other=arr[::-1], age=[3, 1, -1], mu=np.zeros(4), arr_1=[1, 1, 1])
    refused(tmp_path / "x.npz").fails(3, "no images as 'arr_0'", "'faces' (uint8 [3, 4, 4, 3])", "--image-column")
    pack(tmp_path / "x.npz", tmp_path / "out", "--image-column", "other", "--label-column", "age")
    assert np.array_equal(images(tmp_path / "out"), arr[::-1])
    assert labels(tmp_path / "out") == [3, 1]
    dprune("pack", tmp_path / "x.npz", "-o", tmp_path / "out", "--image-column", "faces").fails(3, "image_column")
    pack(tmp_path / "x.npz", tmp_path / "none", "--image-column", "faces", "--label-column", "none")
    assert labels(tmp_path / "none") == []
    refused(tmp_path / "x.npz", "--image-column", "nix").fails(3, "no array 'nix'", "'mu' (float64 [4])")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (drawn(3, 4, 4, 3) / 255, ("float64 [3, 4, 4, 3]", "(images * 255).round().astype('uint8')")),
        (drawn(3, 4, 4, 3).astype(np.int64), ("int64", "astype('uint8')")),
        (drawn(3, 3, 8, 8), ("uint8 [3, 3, 8, 8]", "transpose(0, 2, 3, 1)")),
        (drawn(3, 8, 8, 4), ("[3, 8, 8, 4]", "--image-column")),
        (drawn(9), ("uint8 [9]", "--image-column")),
        (drawn(3, 0, 4, 3), ("[3, 0, 4, 3]",)),
        (np.asfortranarray(drawn(3, 4, 4, 3)), ("ascontiguousarray",)),
        (np.array([{}], dtype=object), ("pickled Python objects",)),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray[Any, Any], words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "x.npz", arr_0=array)
    refused(tmp_path / "x.npz").fails(3, "x.npz", *words)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        ([0.5, 1, 2], ("float64 [3]", "each of 3 images: leave labels out with --label-column none")),
        ([0, 1], ("int64 [2]", "each of 3 images")),
        (np.eye(3, dtype=np.int64), ("images: save labels.argmax(1), or leave labels out",)),
        (np.array([1, 2, 1 << 63], dtype=np.uint64), ("63 bits",)),
        (["a", "b", "c"], ("<U1", "--label-column none")),
    ],
)
def test_labels_that_are_none(tmp_path: Path, array: Any, words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "x.npz", drawn(3, 4, 4, 3), array)
    refused(tmp_path / "x.npz").fails(3, "'arr_1'", *words)


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, drawn(4, 20, 20, 3), np.arange(4))
    whole = path.read_bytes()
    for data in (b"", b"junk", whole[:-1], whole[: len(whole) // 2], whole[:1000] + bytes(9) + whole[1009:]):
        path.write_bytes(data)
        refused(path).fails(3, "x.npz: is not a whole .npz archive", "copy or make it again")
    assert not (tmp_path / "refused" / "000000.tar").exists()
    with zipfile.ZipFile(path, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9, 9, 9, 3)})
        archive.writestr("arr_0.npy", header.getvalue() + bytes(9))
    refused(path).fails(3, "does not fill its")
    np.savez(path, np.zeros((1, 1, 1 << 28), dtype=np.uint8))
    refused(path).fails(3, "too long and thin")
    np.savez(path, np.zeros((0, 4, 4, 3), dtype=np.uint8))
    refused(path).fails(3, "[0, 4, 4, 3]")


def test_damage_of_any_kind_ends_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, drawn(4, 6, 6, 3), np.arange(4))
    for name, data in damaged(path.read_bytes(), "npz"):
        path.write_bytes(data)
        result = dprune("pack", path, "-o", tmp_path / "out", "--workers", 0, "--overwrite")
        assert result.code == 0 or len(result.fails(3, "x.npz").err) < 600, name


def test_single_images_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arr = drawn(9, 4, 4, 3)
    np.savez_compressed(tmp_path / "x.npz", arr, np.arange(9))
    monkeypatch.setattr(npz_images, "BLOCK_BYTES", 3 * 4 * 4 * 3)
    source = NpzSource(str(tmp_path / "x.npz"), TableChoice())
    for number in (0, 4, 8, 2, 2):
        found = source.load(number).members
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[0][1]))), arr[number])
        assert found[1] == ("cls", str(number).encode())


def test_images_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", np.zeros((40, 1024, 1024, 3), dtype=np.uint8))
    found = NpzImages.open(str(tmp_path / "x.npz"))
    assert [len(block) for block in found.blocks(37)] == [2, 1]
