"""dprune pack: sources, treatments, subsets, unreadable images, interruptions and bad input."""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xxhash
from conftest import Result, dprune, dprune_process, image_bytes, members, sample, write_tar
from PIL import Image
from studies import rewrite

from dprune.formats.shard_journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 900 million pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of images with the names that people give to files."""
    folder = tmp_path / "photos"
    names = [
        "cat/a.png",
        "cat/b.v2.final.JPG",
        "dog/ä ö.png",
        f"dog/{'x' * 120}.webp",
        "ape.x/.hidden.png",
        "ape.x/c.png",
    ]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes(number, suffix=name.rpartition(".")[2].lower()))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folder_becomes_labelled_shards(photos: Path, tmp_path: Path) -> None:
    dprune("pack", photos, "-o", tmp_path / "out", "--shard-size", 2, "--workers", 0).ok()
    found = members(tmp_path / "out")
    assert list(found) == [
        "ape_x/c.png", "ape_x/c.cls", "cat/a.png", "cat/a.cls", "cat/b_v2_final.jpg", "cat/b_v2_final.cls",
        f"dog/{'x' * 120}.webp", f"dog/{'x' * 120}.cls", "dog/ä ö.png", "dog/ä ö.cls",
    ]  # fmt: skip
    assert [found[name] for name in found if name.endswith(".cls")] == [b"0", b"1", b"1", b"2", b"2"]
    assert found["cat/b_v2_final.jpg"] == (photos / "cat/b.v2.final.JPG").read_bytes()
    assert (tmp_path / "out" / "classes.txt").read_text() == "ape.x\ncat\ndog\n"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar", "000002.tar"]


def test_zip_is_packed_like_the_folder(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.rglob("*"):
            archive.write(path, path.relative_to(photos))
    dprune("pack", photos, "-o", tmp_path / "a", "--workers", 0).ok()
    dprune("pack", tmp_path / "photos.zip", "-o", tmp_path / "b", "--workers", 0).ok()
    assert members(tmp_path / "a") == members(tmp_path / "b")
    assert (tmp_path / "a" / "classes.txt").read_text() == (tmp_path / "b" / "classes.txt").read_text()


def test_changed_images_of_equal_size_are_noticed_in_a_zip(tmp_path: Path) -> None:
    def write(pixels: bytes) -> None:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            archive.writestr("x.png", pixels)

    image, out = image_bytes(0), tmp_path / "out"
    write(image)
    dprune("pack", tmp_path / "in.zip", "-o", out, "--workers", 0).ok()
    write(image[:-1] + b"x")
    dprune("pack", tmp_path / "in.zip", "-o", out, "--workers", 0).fails(3, "made differently", "images")


def test_webdataset_reads_our_shards(photos: Path, tmp_path: Path) -> None:
    import webdataset

    dprune("pack", photos, "-o", tmp_path / "out", "--shard-size", 2, "--workers", 0).ok()
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    with warnings.catch_warnings():
        # It leaves the shards open.
        warnings.simplefilter("ignore", ResourceWarning)
        read = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
    assert [item["__key__"] for item in read][:3] == ["ape_x/c", "cat/a", "cat/b_v2_final"]
    assert [item["cls"] for item in read] == [b"0", b"1", b"1", b"2", b"2"]
    assert read[1]["png"] == (photos / "cat/a.png").read_bytes()


@pytest.mark.parametrize(("suffix", "name"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_size_resizes_and_crops(tmp_path: Path, suffix: str, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "wide.png").write_bytes(image_bytes(0, (60, 30)))
    Image.new("L", (40, 80), 7).save(tmp_path / "in" / "grey.bmp")
    dprune("pack", tmp_path / "in", "-o", tmp_path / "a", "--size", 16, "--format", suffix, "--workers", 0).ok()
    dprune("pack", tmp_path / "in", "-o", tmp_path / "b", "--size", 16, "--crop", "none", "--workers", 0).ok()
    square, shaped = members(tmp_path / "a"), members(tmp_path / "b")
    for key, shape in {"wide": (32, 16), "grey": (16, 32)}.items():
        image = Image.open(io.BytesIO(square[f"{key}.{suffix}"]))
        assert (image.size, image.mode, image.format) == ((16, 16), "RGB", name)
        assert Image.open(io.BytesIO(shaped[f"{key}.png"])).size == shape


def test_resize_is_one_antialiased_lanczos(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(image_bytes(1, (96, 64)))
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out", "--size", 16, "--workers", 0).ok()
    original = Image.open(io.BytesIO(image_bytes(1, (96, 64))))
    expected = original.resize((24, 16), Image.Resampling.LANCZOS).crop((4, 0, 20, 16))
    got = Image.open(io.BytesIO(members(tmp_path / "out")["x.png"]))
    np.testing.assert_allclose(np.asarray(got, int), np.asarray(expected, int), atol=1)


def test_modes_and_orientation(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "deep.png")
    turned = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 8, axis=0).repeat(4, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    dprune("pack", folder, "-o", tmp_path / "out", "--size", 8, "--workers", 0).ok()
    pixels = {key: np.asarray(Image.open(io.BytesIO(data))) for key, data in members(tmp_path / "out").items()}
    assert (pixels["clear.png"] == 255).all(), "transparency lies over white"
    assert (abs(pixels["deep.png"].astype(int) - 40_000 // 256) <= 1).all(), "16 bits are scaled, not clipped"
    assert (pixels["turned.png"][:4] == 0).all(), "the camera's orientation is applied"


def test_digits(tmp_path: Path) -> None:
    result = dprune("pack", "sklearn:digits", "-o", tmp_path / "out", "--workers", 0, "--json").ok()
    summary = json.loads(result.out)
    assert (summary["samples"], summary["unreadable"], summary["shards"], summary["classes"]) == (1797, 0, 1, 10)
    found = members(tmp_path / "out")
    assert Image.open(io.BytesIO(found["digit-0000.png"])).size == (32, 32)
    assert found["digit-0007.cls"] == b"7"


def test_keys_that_loaders_would_ignore_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "__neg__").mkdir(parents=True)
    (tmp_path / "in" / "__neg__" / "a.png").write_bytes(image_bytes(0))
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out").fails(3, "__neg__/a", "ignored")


def test_zip_members_of_one_name_keep_their_own_bytes(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for seed in (1, 2):
            archive.writestr("a.png", image_bytes(seed))
    dprune("pack", tmp_path / "a.zip", "-o", tmp_path / "out", "--keys", "unique", "--workers", 0).ok()
    assert list(members(tmp_path / "out").values()) == [image_bytes(1), image_bytes(2)]


def test_odd_class_names_keep_their_numbers(tmp_path: Path) -> None:
    for name in ("new\nline", "u\u2028v", "z"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.png").write_bytes(image_bytes(0))
    dprune("pack", tmp_path / "in", "-o", tmp_path / "a", "--workers", 0).ok()
    dprune("pack", tmp_path / "a", "-o", tmp_path / "b").ok()
    expected = "new\\nline\nu\u2028v\nz\n"
    assert [(tmp_path / name / "classes.txt").read_text() for name in "ab"] == [expected, expected]


def test_bad_images_with_names_that_are_no_unicode(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"junk")
    (tmp_path / "in" / "good.png").write_bytes(image_bytes(0))
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out", "--workers", 0).ok()
    bad = json.loads((tmp_path / "out" / "bad.jsonl").read_text())
    assert os.fsencode(bad["key"]) == b"caf\xe9"


def test_links_are_followed_once(photos: Path, tmp_path: Path) -> None:
    (photos / "dog" / "up").symlink_to(photos)
    (photos / "broken.png").symlink_to(tmp_path / "nowhere.png")
    dprune("pack", photos, "-o", tmp_path / "out", "--workers", 0).ok()
    assert len(members(tmp_path / "out")) == 10


def test_a_second_image_of_a_sample_is_not_taken_for_the_resized_one(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", image_bytes(1, suffix="jpg")), ("a.png", image_bytes(2))])
    dprune("pack", tmp_path / "a.tar", "--size", 8, "--workers", 0, "-o", tmp_path / "out").ok()
    assert list(members(tmp_path / "out")) == ["a.png", "a.other.png"]


# Subsets


def test_subset_copies_members_byte_for_byte_in_id_order(tmp_path: Path) -> None:
    originals = [
        [("a.jpg", image_bytes(0, suffix="jpg")), ("a.cls", b"1"), ("a.seg.png", b"any"), ("a.json", b"{}")],
        sample("b", 1), sample("c", 2, 5), sample("d", 3, 6),
    ]  # fmt: skip
    write_tar(tmp_path / "in" / "x.tar", originals[0] + originals[1])
    write_tar(tmp_path / "in" / "y.tar", originals[2] + originals[3])
    np.save(tmp_path / "keep.npy", np.array([3, 0]))
    dprune("pack", tmp_path / "in", "--subset", tmp_path / "keep.npy", "-o", tmp_path / "out").ok()
    assert list(members(tmp_path / "out").items()) == originals[0] + originals[3]
    (tmp_path / "keys.txt").write_text("d\na\n")
    dprune("pack", tmp_path / "in", "--subset", tmp_path / "keys.txt", "-o", tmp_path / "by-key").ok()
    piped = (tmp_path / "keep.npy").read_bytes()
    dprune("pack", tmp_path / "in", "--subset", "-", "-o", tmp_path / "piped", stdin=piped).ok()
    assert tree(tmp_path / "by-key") == tree(tmp_path / "piped") == tree(tmp_path / "out")
    # As an editor on Windows leaves it.
    lines = b"\r\nd\r\na"
    dprune("pack", tmp_path / "in", "--subset", "-", "-o", tmp_path / "by-line", stdin=lines).ok()
    assert tree(tmp_path / "by-line") == tree(tmp_path / "out")


def test_a_tenth_of_the_samples_costs_a_tenth_of_the_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [(f"s{i:04d}.jpg", rng.bytes(60_000)) for i in range(300)]
    path = write_tar(tmp_path / "in" / "000000.tar", samples)
    np.save(tmp_path / "keep.npy", np.sort(rng.choice(300, 30, replace=False)))
    dprune("info", tmp_path / "keep.npy")  # imports that would count as reads

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    dprune("pack", path, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "out", "--workers", 0).ok()
    share = (bytes_read() - before) / path.stat().st_size
    assert 0.1 < share < 0.13


def test_wrong_subsets_are_refused(shards: Path, tmp_path: Path) -> None:
    def subset(values: object, name: str = "k.npy") -> Path:
        np.save(tmp_path / name, np.array(values))
        return tmp_path / name

    out = tmp_path / "out"
    dprune("pack", shards, "--subset", subset([0, 18]), "-o", out).fails(3, "id 18", "18 samples")
    dprune("pack", shards, "--subset", subset([-1, 3]), "-o", out).fails(3, "id -1")
    dprune("pack", shards, "--subset", subset([3, 3]), "-o", out).fails(3, "id 3", "more than once")
    dprune("pack", shards, "--subset", subset([0.5]), "-o", out).fails(3, "vector of sample ids")
    dprune("pack", shards, "--subset", subset(np.array([], int)), "-o", out).fails(3, "keeps no sample")
    dprune("pack", shards, "--subset", tmp_path / "none.npy", "-o", out).fails(3, "none.npy", "no such file")
    (tmp_path / "keys.txt").write_text("s001\nnobody\n")
    dprune("pack", shards, "--subset", tmp_path / "keys.txt", "-o", out).fails(3, "'nobody'")
    dprune("pack", "sklearn:digits", "--subset", subset([1]), "-o", out).fails(2, "pack sklearn:digits first")
    assert not out.exists()


def test_subset_of_another_dataset_is_refused(shards: Path, tmp_path: Path) -> None:
    dprune("score", "random", shards, "-o", tmp_path / "s.npy").ok()
    dprune("select", tmp_path / "s.npy", "--keep", "5", "-o", tmp_path / "k.npy").ok()
    dprune("pack", shards, "--subset", tmp_path / "k.npy", "-o", tmp_path / "pruned").ok()
    other = write_tar(tmp_path / "other" / "000000.tar", [m for i in range(20) for m in sample(f"o{i}", i)])
    dprune("pack", other, "--subset", tmp_path / "k.npy", "-o", tmp_path / "x").fails(3, "different datasets", "k.npy")


def test_text_keys_that_name_two_samples_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / "in" / f"{name}.tar", sample("same", 1))
    (tmp_path / "keys.txt").write_text("same\n")
    out = tmp_path / "out"
    dprune("pack", tmp_path / "in", "--subset", tmp_path / "keys.txt", "-o", out).fails(3, "'same'", "two samples")
    dprune("pack", tmp_path / "in", "-o", out).fails(3, "'same'", "twice", "--keys unique")
    dprune("pack", tmp_path / "in", "-o", out, "--keys", "unique").ok()
    assert list(members(out)) == ["same.png", "same-2.png"]


def test_pictures_with_one_name_are_told_apart_when_asked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "a-2.png"):
        (tmp_path / "in" / name).write_bytes(image_bytes(0, suffix=name[-3:]))
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out").fails(3, "'a'", "twice")
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out", "--keys", "unique", "--workers", 0).ok()
    assert sorted(members(tmp_path / "out")) == ["a-2.png", "a-3.png", "a.jpg"]


# Unreadable images


def test_unreadable_images_are_logged(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "a.png").write_bytes(image_bytes(0)[:-40])
    (photos / "dog" / "huge.png").write_bytes(bomb())
    (photos / "dog" / "empty.jpg").write_bytes(b"")
    result = dprune("pack", photos, "-o", tmp_path / "out", "--workers", 0).ok()
    bad = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in bad] == ["cat/a", "dog/empty", "dog/huge"]
    assert "too many pixels" in bad[2]["reason"]
    assert "unreadable: 3" in result.err
    assert not any(name.startswith(("cat/a.", "dog/huge.")) for name in members(tmp_path / "out"))
    dprune("pack", photos, "-o", tmp_path / "strict", "--strict", "--workers", 0).fails(
        3, "'cat/a'", "cannot be decoded"
    )


def test_strict_holds_for_what_an_earlier_run_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat/a.png", "dog/ä ö.png"):
        (photos / name).write_bytes(b"junk")
    command = ["pack", photos, "-o", tmp_path / "out", "--shard-size", 2, "--workers", 0]
    asked = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked) > 3)
        dprune(*command).fails(75)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    dprune(*command, "--strict").fails(3, "'cat/a'", "cannot be decoded", "--strict")
    dprune(*command).ok()
    dprune(*command, "--strict").fails(3, "'cat/a'", "cannot be decoded", "--strict")
    assert "up to date" in dprune(*command).ok().err


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out").fails(3, "holds no images")
    (tmp_path / "in" / "x.png").write_bytes(b"junk")
    dprune("pack", tmp_path / "in", "-o", tmp_path / "out", "--workers", 0).fails(
        3, "every image is unreadable", "'x', which cannot be decoded"
    )
    assert not list((tmp_path / "out").glob("*"))


# Bad shards


def test_damaged_shards_are_refused(shards: Path, tmp_path: Path) -> None:
    tar = shards / "000001.tar"
    data = tar.read_bytes()
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    for cut in (end, end - 300, 513, 100):
        tar.write_bytes(data[:cut])
        dprune("pack", shards, "-o", tmp_path / "out").fails(3, "000001.tar", "end marker")
    tar.write_bytes(b"")
    dprune("pack", shards, "-o", tmp_path / "out").fails(3, "000001.tar", "end marker")
    tar.write_bytes(data[:512] + b"\xff" * 512 + data[1024:])
    dprune("pack", shards, "-o", tmp_path / "out")
    write_tar(tar, [*sample("a", 1), *sample("b", 2), ("a.cls", b"1")])
    dprune("pack", shards, "-o", tmp_path / "out").fails(3, "'a'", "not adjacent")
    write_tar(tar, [*sample("a", 1), *sample("a", 2)])
    dprune("pack", shards, "-o", tmp_path / "out").fails(3, "a.png", "twice")
    dprune("pack", tmp_path / "nowhere", "-o", tmp_path / "out").fails(3, "nowhere", "no such file")


def test_an_empty_shard_is_passed_over_with_a_word(shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "000001.tar", [])
    result = dprune("pack", shards, "-o", tmp_path / "out").ok()
    assert "000001.tar holds no samples" in result.err
    assert len(members(tmp_path / "out")) == 26


# Outputs


def test_the_manifest_holds_a_digest_of_each_shards_bytes(shards: Path, tmp_path: Path) -> None:
    dprune("pack", shards, "-o", tmp_path / "out", "--shard-size", 10).ok()
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]
    assert [entry["name"] for entry in listed] == ["000000.tar", "000001.tar"]
    for entry in listed:
        assert entry["xxh3"] == xxhash.xxh3_64_hexdigest((tmp_path / "out" / entry["name"]).read_bytes())


def test_bytes_depend_on_nothing_but_the_input(photos: Path, tmp_path: Path) -> None:
    dprune("pack", photos, "-o", tmp_path / "a", "--size", 8, "--workers", 0, "--shard-size", 2).ok()
    dprune_process("pack", photos, "-o", tmp_path / "b", "--size", 8, "--workers", 2, "--shard-size", 2).ok()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_up_to_date_refused_and_overwritten(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dprune("pack", photos, "-o", out, "--shard-size", 1, "--workers", 0).ok()
    assert "up to date" in dprune("pack", photos, "-o", out, "--shard-size", 1, "--workers", 0).ok().err
    dprune("pack", photos, "-o", out, "--workers", 0).fails(3, "shard_size: 1, not 10000", "--overwrite")
    dprune("pack", photos, "-o", out, "--workers", 0, "--overwrite").ok()
    assert [path.name for path in out.glob("*.tar")] == ["000000.tar"]


def test_foreign_shards_are_never_removed(photos: Path, shards: Path) -> None:
    before = tree(shards)
    dprune("pack", photos, "-o", shards).fails(3, "exists")
    dprune("pack", photos, "-o", shards, "--overwrite", "--workers", 0).fails(3, "did not write")
    assert tree(shards) == before


def test_the_source_is_never_overwritten(shards: Path, photos: Path, tmp_path: Path) -> None:
    packed, link = tmp_path / "packed", tmp_path / "link"
    dprune("pack", shards, "-o", packed).ok()
    link.symlink_to(packed)
    write_tar(tmp_path / "far" / "unused.tar", sample("x", 1))
    (tmp_path / "far" / "000000.tar").symlink_to(packed / "000000.tar")
    np.save(tmp_path / "keep.npy", np.array([1]))
    before = tree(packed), tree(photos)
    for source in (packed, link, packed / "000000.tar", tmp_path / "far", f"file://{packed}/000000.tar"):
        dprune("pack", source, "-o", packed, "--overwrite").fails(3, "to be packed", "another -o")
    dprune("pack", packed, "-o", link, "--subset", tmp_path / "keep.npy", "--overwrite").fails(3, "another -o")
    dprune("pack", photos, "-o", photos, "--overwrite").fails(3, "to be packed", "another -o")
    assert (tree(packed), tree(photos)) == before


@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_shard_is_made_again(photos: Path, tmp_path: Path, number: int) -> None:
    command = ["pack", photos, "-o", tmp_path / "out", "--shard-size", 2, "--workers", 0]
    dprune(*command).ok()
    whole = tree(tmp_path / "out")
    (tmp_path / "out" / f"{number:06d}.tar").unlink()
    assert "up to date" not in dprune(*command).ok().err
    assert tree(tmp_path / "out") == whole


@pytest.fixture
def interrupted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The command of a pack of three shards at `out`, of which the first is finished; `whole` is undisturbed."""
    command: list[object] = ["pack", photos, "-o", tmp_path / "out", "--shard-size", 2, "--workers", 0]
    dprune("pack", photos, "-o", tmp_path / "whole", *command[4:]).ok()
    asked = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked) > 3)
        dprune(*command).fails(75)
    return command


def test_a_missing_shard_of_an_interrupted_pack_is_made_again(interrupted: list[object], tmp_path: Path) -> None:
    (tmp_path / "out" / "000000.tar").unlink()
    dprune(*interrupted).ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flipped", "grown"])
def test_a_finished_shard_that_has_changed_is_made_again(
    interrupted: list[object], tmp_path: Path, damage: str
) -> None:
    shard = tmp_path / "out" / "000000.tar"
    data = shard.read_bytes()
    data = {"cut": data[:2000], "flipped": data[:700] + bytes([data[700] ^ 1]) + data[701:], "grown": data * 2}[damage]
    shard.write_bytes(data)
    dprune(*interrupted).ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_shard_that_was_copied_is_kept(interrupted: list[object], tmp_path: Path) -> None:
    shard = tmp_path / "out" / "000000.tar"
    shutil.copy(shard, tmp_path / "copy")
    (tmp_path / "copy").replace(shard)
    made = shard.stat().st_ino
    dprune(*interrupted).ok()
    assert shard.stat().st_ino == made


def damages(data: bytes) -> Iterator[bytes]:
    """An entry of a journal in 70 ways that nobody wrote."""
    draw = random.Random(0)
    for place in draw.sample(range(len(data)), 30):
        yield data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    yield from (data[: draw.randrange(len(data) - 2)] for _ in range(20))
    yield from (b"", b"\xff", b"[]", b"null", b"{}", b"1e999", b"[" * 100_000, data.replace(b"000000", b"000001"))
    content = json.loads(data)
    for key in content:
        yield json.dumps({name: value for name, value in content.items() if name != key}).encode()
        yield json.dumps(content | {key: [{}]}).encode()


def test_an_entry_of_the_journal_that_cannot_be_trusted_is_work_to_do_again(
    interrupted: list[object], tmp_path: Path
) -> None:
    entry = tmp_path / "out" / ".dprune" / "000000.json"
    data, journal = entry.read_bytes(), Journal(tmp_path / "out")
    assert journal.shard(0) is not None
    for damaged in damages(data):
        entry.write_bytes(damaged)
        assert journal.shard(0) is None, damaged
    dprune(*interrupted).ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_journal_whose_manifest_is_damaged_wants_to_be_replaced(interrupted: list[object], tmp_path: Path) -> None:
    (tmp_path / "out" / ".dprune" / "manifest.json").write_bytes(b"\xff{")
    dprune(*interrupted).fails(3, "--overwrite")
    dprune(*interrupted, "--overwrite").ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_pack_that_was_cut_is_made_again(interrupted: list[object], tmp_path: Path) -> None:
    dprune(*interrupted).ok()
    os.truncate(tmp_path / "out" / "000001.tar", 2000)
    dprune(*interrupted).ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_upgrade_keeps_finished_shards(interrupted: list[object], tmp_path: Path) -> None:
    journal = tmp_path / "out" / ".dprune" / "manifest.json"
    rewrite(journal, lambda content: content["provenance"].update(dprune="0.0.1"))
    made = (tmp_path / "out" / "000000.tar").stat().st_mtime_ns
    dprune(*interrupted).ok()
    assert (tmp_path / "out" / "000000.tar").stat().st_mtime_ns == made
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, target: str, matches: Callable[[Path], bool], *command: object) -> None:
    """Run a command that dies when it is about to remove a path that matches."""
    owner, name = target.rsplit(".", 1)
    original = getattr(Path if owner == "pathlib.Path" else shutil, name)

    def dies(path: Path, *args: object, **options: object) -> object:
        if matches(Path(path)):
            raise Killed
        return original(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, dies)
        with pytest.raises(Killed):
            dprune(*command)


@pytest.mark.parametrize("first", ["000000.tar", "000002.tar", "classes.txt"])
def test_killed_while_it_overwrites(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    out, old = tmp_path / "out", ["--shard-size", 2, "--workers", 0]
    new = ["pack", photos, "-o", out, "--workers", 0, "--overwrite"]
    dprune("pack", photos, "-o", out, *old).ok()
    whole = tree(out)
    killed_at(monkeypatch, "pathlib.Path.unlink", lambda path: path.name == first, *new)
    assert not (out / "manifest.json").exists()
    dprune("score", "random", out).fails(3, "not finished")
    for _ in range(2):
        dprune(*new).ok()
        assert [path.name for path in out.glob("*.tar")] == ["000000.tar"]
    dprune("pack", photos, "-o", out, *old, "--overwrite").ok()
    killed_at(monkeypatch, "pathlib.Path.unlink", lambda path: path.name == first and path.exists(), *new)
    dprune("pack", photos, "-o", out, *old).ok()
    assert tree(out) == whole


def test_killed_while_it_removes_the_journal(
    interrupted: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    killed_at(monkeypatch, "shutil.rmtree", lambda path: path.name == ".dprune", *interrupted)
    (out / ".dprune" / "manifest.json").unlink()
    made = [path.stat().st_mtime_ns for path in sorted(out.glob("*.tar"))]
    assert "up to date" in dprune(*interrupted).ok().err
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.tar"))] == made
    assert tree(out) == tree(tmp_path / "whole")


def test_files_of_others_are_never_removed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".dprune").mkdir(parents=True)
    for name in ("classes.txt", "bad.jsonl", "manifest.json", ".dprune/notes", ".editing.tmp"):
        (out / name).write_text("[]")
    before = tree(out)
    dprune("pack", photos, "-o", out, "--overwrite", "--workers", 0).fails(3, "did not write")
    assert tree(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".secret.tmp").write_text("mine")
    dprune("pack", photos, "-o", tmp_path / "other", "--workers", 0, "--overwrite").ok()
    assert (tmp_path / "other" / ".secret.tmp").read_text() == "mine"


@pytest.mark.parametrize("name", [".manifest.json.17-00c0ffee.tmp", "000000.json", None])
def test_a_journal_that_a_kill_cut_short_is_no_obstacle(photos: Path, tmp_path: Path, name: str | None) -> None:
    (tmp_path / "out" / ".dprune").mkdir(parents=True)
    if name:
        (tmp_path / "out" / ".dprune" / name).write_text("{")
    for folder in ("out", "whole"):
        dprune("pack", photos, "-o", tmp_path / folder, "--workers", 0).ok()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_loses_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    # Shells limit the size of files in KiB.
    command = ["bash", "-c", 'ulimit -f 3; exec "$@"', "-", sys.executable, "-m", "dprune", "pack", str(photos)]
    command += ["-o", str(out), "--workers", "0", "--shard-size", "1"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(out.glob(".*.tmp"))
    dprune("pack", photos, "-o", out, "--workers", 0, "--shard-size", 1).ok()
    dprune("pack", photos, "-o", tmp_path / "whole", "--workers", 0, "--shard-size", 1).ok()
    assert tree(out) == tree(tmp_path / "whole")


def test_an_unfinished_pack_is_not_taken_for_a_dataset(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dprune("pack", photos, "-o", out, "--stop-after", "0s", "--workers", 0).fails(75, "run the same command again")
    dprune("score", "random", out).fails(3, "not finished")
    dprune("pack", photos, "-o", out, "--size", 8, "--workers", 0).fails(3, "exists and was made differently")
    dprune("pack", photos, "-o", out, "--workers", 0).ok()
    dprune("score", "random", out).ok()


def test_a_rerun_keeps_the_shards_that_are_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "out", itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("dprune.console.TerminalMonitor.stop_requested", lambda self: next(asked) > 3)
        dprune("pack", photos, "-o", out, "--shard-size", 2, "--workers", 0).fails(75)
    finished = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    assert list(finished) == ["000000.tar"]
    dprune("pack", photos, "-o", out, "--shard-size", 2, "--workers", 0).ok()
    assert (out / "000000.tar").stat().st_ino == finished["000000.tar"]
    assert len(members(out)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(240):
        (folder / f"{i:03d}.png").write_bytes(image_bytes(i, (200, 160)))
    options = ["--size", "96", "--shard-size", "20", "--workers", "2"]
    dprune("pack", folder, "-o", tmp_path / "whole", *options[:4], "--workers", 0).ok()
    command = [sys.executable, "-m", "dprune", "pack", str(folder), "-o", str(tmp_path / "out"), *options]
    rng = np.random.default_rng(int(number))
    codes = []
    for _ in range(8):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.15, 0.8))
        process.send_signal(number)
        codes.append(process.wait(timeout=60))
    assert set(codes) <= {75, 0, -number}, codes
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert os.listdir(tmp_path / "out").count(".dprune") == 0


def test_a_worker_that_is_killed_ends_the_command(tmp_path: Path) -> None:
    """As the kernel does where memory is short."""
    folder = tmp_path / "in"
    folder.mkdir()
    first = folder / "0000.png"
    first.write_bytes(image_bytes(0, (600, 600)))
    for number in range(1, 2000):
        (folder / f"{number:04d}.png").hardlink_to(first)
    command = [sys.executable, "-m", "dprune", "pack", str(folder), "--size", "64", "--workers", "2"]
    with subprocess.Popen([*command, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True) as process:
        while not (workers := workers_of(tmp_path / "out")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    Result(process.returncode, b"", said).fails(1, "a worker process was killed", "--workers")


def workers_of(output: Path) -> list[int]:
    """Processes that pack into a folder and whose parent does so, too."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = (status.parent / "cmdline").read_bytes().split(b"\0")
            if str(output).encode() in words:
                found[int(status.parent.name)] = int(status.read_text().split("PPid:")[1].split()[0])
        except OSError:
            continue
    return [process for process, parent in found.items() if parent in found]
