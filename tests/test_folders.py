"""dprune pack of folders and zips of images as people have them: formats, captions, splits, links and litter."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes, members, sample, write_tar
from PIL import Image, features
from studies import rewrite

from dprune.errors import UsageError
from dprune.packing.splits import find_classes


def pack(source: Path, output: Path, *args: object) -> dict[str, Any]:
    """What a pack says in JSON."""
    summary: dict[str, Any] = json.loads(dprune("pack", source, "-o", output, "--workers", 0, "--json", *args).ok().out)
    return summary


def refused(source: Path, *args: object) -> Result:
    return dprune("pack", source, "-o", source.with_name("refused"), "--workers", 0, *args)


def labels(folder: Path) -> dict[str, int]:
    return {name.removesuffix(".cls"): int(data) for name, data in members(folder).items() if name.endswith(".cls")}


def tree(folder: Path, *names: str) -> Path:
    """A folder of small images, or of junk where the suffix is no image's."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = name.rpartition(".")[2].lower()
        path.write_bytes(image_bytes(seed, (8, 8), suffix) if suffix in ("png", "jpg", "webp") else b"junk")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def saved(path: Path, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).convert("L" if path.suffix == ".pgm" else "RGB").save(buffer, form)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


# Formats


@pytest.mark.parametrize("packed", [False, True])
def test_every_format_is_taken_and_what_is_left_is_counted(tmp_path: Path, packed: bool) -> None:
    folder = tree(tmp_path / "in", "a.jpg", "e.heic", "f.HEIC", "g.svg", "notes.txt", "README", "h.2021 final")
    camera = saved(folder / "b.jfif", "JPEG")
    forms = {"d.pgm": "PPM", "i.bmp": "BMP", "j.TIF": "TIFF", "k.gif": "GIF", "l.jp2": "JPEG2000"}
    if features.check("avif"):
        forms["c.avif"] = "AVIF"
    for name, form in forms.items():
        saved(folder / name, form)
    source = zipped(folder) if packed else folder
    result = dprune("pack", source, "-o", tmp_path / "out", "--workers", 0).ok()
    left = {".heic": 2, ".svg": 1, ".txt": 1, "without suffix": 1, "others": 1}
    assert "left out: .heic: 2" in result.err
    found = members(tmp_path / "out")
    assert sorted(found) == sorted(["a.jpg", "b.jpg", *(f"{name[0]}.png" for name in forms)])
    assert (found["a.jpg"], found["b.jpg"]) == ((folder / "a.jpg").read_bytes(), camera)
    for name in forms:
        image = Image.open(io.BytesIO(found[f"{name[0]}.png"]))
        expected = [124] * 3 if name == "d.pgm" else [200, 100, 50]
        assert (image.mode, image.format) == ("RGB", "PNG")
        assert abs(np.asarray(image, int) - expected).max() <= 4, name
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["provenance"]["findings"] == {"left_out": left}
    shown = json.loads(dprune("info", tmp_path / "out", "--json").ok().out)["files"][0]["content"]
    assert shown["left_out"] == left
    shutil.copytree(tmp_path / "out", tmp_path / "odd")
    for odd in ([[1]], "abc", {".txt": None}, {".txt": "1"}):
        rewrite(
            tmp_path / "odd" / "manifest.json",
            lambda content, odd=odd: content["provenance"]["findings"].update(left_out=odd),
        )
        assert b"left_out" not in dprune("info", tmp_path / "odd", "--json").ok().out.partition(b'"fingerprint"')[0]
    assert "up to date" in dprune("pack", source, "-o", tmp_path / "out").ok().err
    resized = pack(source, tmp_path / "small", "--size", 4)
    assert (resized["samples"], resized["left_out"]) == (len(found), left)


def test_a_folder_without_readable_images_says_what_it_holds(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.heic", "b.heic", "c.txt")
    refused(tmp_path / "in").fails(3, "holds no images that can be read", "2 .heic, 1 .txt")
    tree(tmp_path / "sets", "train/0.tar", "val/0.tar")
    refused(tree(tmp_path / "one", "a.jpg") / "a.jpg").fails(3, "a.jpg: is an image: give the folder")
    refused(tmp_path / "sets").fails(3, "holds no images that can be read (but 2 .tar)", "folders that its tars lie in")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty").fails(3, "empty: holds no images that can be read.")


def test_litter_is_not_counted(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "cat/a.png", "cat/Thumbs.db", "Desktop.ini", ".DS_Store", "cat/._a.png",
                  "__MACOSX/cat/._a.png", ".git/x.png", "lost+found/y")  # fmt: skip
    for source in (folder, zipped(folder)):
        summary = pack(source, tmp_path / source.suffix.strip(".") / "out")
        assert summary["samples"] == 1
        assert summary.get("left_out", {}) == ({"hidden": 1} if source.suffix else {})
    tree(folder, "cat/.b.png")
    assert pack(folder, tmp_path / "more")["left_out"] == {"hidden": 1}


def test_odd_images(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "Ünï/猫 1.PNG", "Ünï/b.v1.0.png", "Ünï/cut.jpg")
    (folder / "Ünï" / "cut.jpg").write_bytes(image_bytes(0, (64, 64), "jpg")[:-300])
    Image.new("RGB", (1, 1), "red").save(folder / "Ünï" / "dot.png")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "Ünï" / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "Ünï" / "moves2.webp", save_all=True, append_images=frames[1:], lossless=True)
    result = dprune("pack", folder, "-o", tmp_path / "out", "--size", 4, "--workers", 0, "--json").ok()
    summary = json.loads(result.out)
    assert (summary["samples"], summary["unreadable"]) == (5, 1)
    assert "images of several frames or pages, of which the first was taken: 2." in result.err
    # Nothing is lost of those that stay as they are.
    kept = dprune("pack", folder, "-o", tmp_path / "kept", "--workers", 0).ok()
    assert "the first was taken: 1." in kept.err
    found = members(tmp_path / "out")
    for name in ("dot", "moves", "moves2"):
        assert Image.open(io.BytesIO(found[f"Ünï/{name}.png"])).getpixel((0, 0)) == (255, 0, 0)
    assert json.loads((tmp_path / "out" / "bad.jsonl").read_text())["key"] == "Ünï/cut"
    assert set(labels(tmp_path / "out")) == {"Ünï/猫 1", "Ünï/b_v1_0", "Ünï/dot", "Ünï/moves", "Ünï/moves2"}


def test_what_lies_beside_shards_is_said(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "a.png", "b.JPG", "cat/c.png", "notes.txt", ".d.png")
    write_tar(folder / "0.tar", sample("s", 1))
    result = dprune("pack", folder, "-o", tmp_path / "out", "--workers", 0).ok()
    assert "in: is taken as a folder of shards, and its 3 images are left out" in result.err
    assert list(members(tmp_path / "out")) == ["s.png"]
    assert "left out" not in dprune("pack", tmp_path / "out", "-o", tmp_path / "again").ok().err


# Beside images


def test_captions_are_counted_or_kept(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "in", "cat/a.png", "cat/a.txt", "cat/a.json", "cat/b.png", "cat/c.txt", "d.png", "d.Caption"
    )
    (folder / "cat" / "a.TXT").write_bytes(b"a cat")
    assert pack(folder, tmp_path / "plain")["left_out"] == {".txt": 3, ".json": 1, ".caption": 1}
    for source in (folder, zipped(folder)):
        out = tmp_path / f"out{source.suffix}"
        assert pack(source, out, "--beside", "txt,.json,caption")["left_out"] == {".txt": 2}
        found = members(out)
        assert list(found) == ["cat/a.png", "cat/a.cls", "cat/a.json", "cat/a.txt", "cat/b.png", "cat/b.cls", "d.png",
                               "d.caption"]  # fmt: skip
        assert (found["cat/a.txt"], found["cat/a.json"]) == (b"a cat", b"junk")
    dprune("pack", folder, "-o", tmp_path / "plain", "--beside", "txt").fails(3, "made differently")
    refused(folder, "--beside", "png").fails(2, "--beside png", "samples of their own")
    refused(folder, "--beside", "a b").fails(2, "--beside")


def test_what_was_a_shard_gets_its_labels_back(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "x/a.png", "x/b.png")
    (folder / "x" / "a.cls").write_text("7")
    assert pack(folder, tmp_path / "out", "--beside", "cls")["classes"] == 0
    assert labels(tmp_path / "out") == {"x/a": 7}
    (folder / "classes.txt").write_text("".join(f"c{number}\n" for number in range(8)))
    summary = pack(folder, tmp_path / "named", "--beside", "cls")
    assert (summary["classes"], "left_out" in summary) == (8, False)
    assert members(tmp_path / "named") == members(tmp_path / "out")


# Folders, links and archives


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path / "in", "cat/a.png", "dog/b.png")
    scan = os.scandir

    def locked(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused(folder).fails(3, "in/dog: cannot be read", "permission denied")


def test_links_that_lead_nowhere_or_twice_are_counted(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "cat/a.png", "dog/b.png")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "kitty").symlink_to(folder / "cat")
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "dog" / "pipe.png")
    summary = pack(folder, tmp_path / "out")
    assert summary["left_out"] == {"folders linked again": 1, "broken links": 1, "pipes and devices": 1}
    assert labels(tmp_path / "out") == {"cat/a": 0, "dog/b": 1}


def test_paths_in_archives_as_others_write_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for seed, (name, system) in enumerate([("./cat/a.png", 3), ("dog\\b.png", 0), ("cat\\c.png", 3)]):
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, image_bytes(seed))
    pack(tmp_path / "in.zip", tmp_path / "out")
    assert set(members(tmp_path / "out")) == {"cat/a.png", "cat/a.cls", "dog/b.png", "dog/b.cls", "cat\\c.png"}


def test_archives_that_say_one_thing_and_hold_another(tmp_path: Path) -> None:
    whole = zipped(tree(tmp_path / "in", "cat/a.png", "cat/b.png", "dog/c.png")).read_bytes()
    directory = whole.index(b"PK\x01\x02")
    version = whole[: directory + 6] + b"\xc4" + whole[directory + 7 :]
    damaged = {name: whole[:directory] + whole[directory:].replace(b"cat/b.png", name) for name in
               (b"cat/b.pnh", b".at/b.png", b"cat/b.pn/", b"cat/bopng")}  # fmt: skip
    comment = whole.index(b"PK\x01\x02", directory + 1) + 33
    swallowed = whole[:comment] + b"\x7f" + whole[comment + 1 :]
    for number, data in enumerate([*damaged.values(), version, swallowed, whole[:-30], whole[:directory]]):
        (tmp_path / f"{number}.zip").write_bytes(data)
        refused(tmp_path / f"{number}.zip").fails(3, f"{number}.zip: is ")
    with zipfile.ZipFile(tmp_path / "in.zip", "a") as archive:
        archive.comment = b"all of them"
    with (tmp_path / "in.zip").open("ab") as file:
        file.write(bytes(700))
    assert pack(tmp_path / "in.zip", tmp_path / "padded")["samples"] == 3
    (tmp_path / "other.zip").write_bytes(whole[:directory] + whole[directory:].replace(b"cat/b.png", b"cat/x.png"))
    assert pack(tmp_path / "other.zip", tmp_path / "out")["unreadable"] == 1


# Splits

KAGGLE = ("train/cat/a.png", "train/dog/b.png", "train/dog/c.png", "val/cat/d.png", "val/dog/e.png")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("above", ["", "archive/images/"])
def test_one_split_is_taken_and_its_folders_are_the_classes(tmp_path: Path, packed: bool, above: str) -> None:
    source = tree(tmp_path / "in", *(above + name for name in KAGGLE))
    source = zipped(source) if packed else source
    assert pack(source, tmp_path / "said") == pack(source, tmp_path / "asked", "--split", "Train") | {
        "output": str(tmp_path / "said")
    }
    summary = pack(source, tmp_path / "out")
    assert (summary["samples"], summary["classes"], summary["left_out"]) == (3, 2, {"val/": 2})
    assert summary["split"] == "train"
    assert labels(tmp_path / "out") == {f"{above}train/cat/a": 0, f"{above}train/dog/b": 1, f"{above}train/dog/c": 1}
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    pack(source, tmp_path / "val", "--split", "val")
    dprune("pack", source, "-o", tmp_path / "val", "--split", "train").fails(3, "made differently", "split")
    assert pack(source, tmp_path / "none", "--split", "none")["classes"] == 4
    refused(source, "--split", "test").fails(3, "no split 'test'", "train (3)")


def test_training_data_are_taken_and_what_is_left_is_said(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", *KAGGLE[:3], "val/ILSVRC2012_val_00000001.JPEG", "val/b.png", "notes.txt")
    (folder / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(image_bytes(3, suffix="jpg"))
    result = dprune("pack", folder, "-o", tmp_path / "out", "--workers", 0).ok()
    assert "split: train)" in result.err
    assert "left out: .txt: 1, val/: 2" in result.err
    assert set(labels(tmp_path / "out").values()) == {0, 1}


def test_without_one_training_split_somebody_has_to_choose(tmp_path: Path) -> None:
    refused(tree(tmp_path / "a", "val/cat/d.png", "test/cat/e.png")).fails(
        2, "test (1), val (1)", "--split test", "--split none"
    )
    refused(tree(tmp_path / "b", "train2014/x.png", "train2017/y.png", "val2017/z.png")).fails(2, "--split train2014")


def test_a_list_says_the_order_of_the_classes(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "cat/a.png", "dog/b.png", "ape/c.png")
    (folder / "classes.txt").write_text("dog\nemu\nape\ncat\n")
    for source in (folder, zipped(folder)):
        out = tmp_path / f"out{source.suffix}"
        summary = pack(source, out)
        assert (summary["classes"], "left_out" in summary) == (4, False)
        assert labels(out) == {"ape/c": 2, "cat/a": 3, "dog/b": 0}
        assert (out / "classes.txt").read_text() == "dog\nemu\nape\ncat\n"
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbfdog\r\nape\r\ncat\r\nemu")
    dprune("pack", folder, "-o", tmp_path / "out").fails(3, "made differently", "images")
    assert pack(folder, tmp_path / "turned")["classes"] == 4
    assert labels(tmp_path / "turned") == {"ape/c": 1, "cat/a": 2, "dog/b": 0}
    for content, words in (
        ("dog\ncat\n", "classes.txt: does not list the class 'ape'"),
        ("dog\ncat\ndog\nape", "the class 'dog' stands twice"),
        ("dog\n\ncat\nape", "line 2 is empty"),
        ("", "does not list the class 'ape'"),
    ):
        (folder / "classes.txt").write_text(content)
        refused(folder).fails(3, words)


def test_a_list_may_lie_in_the_folder_of_the_classes(tmp_path: Path) -> None:
    archive = tree(tmp_path / "in", "images/cat/a.png", "images/dog/b.png")
    (archive / "images" / "classes.txt").write_text("dog\ncat\n")
    pack(zipped(archive), tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "dog\ncat\n"
    splits = tree(tmp_path / "splits", *KAGGLE)
    (splits / "classes.txt").write_text("dog\ncat\n")
    for name in ("train", "val"):
        pack(splits, tmp_path / name, "--split", name)
        assert set(labels(tmp_path / name).values()) == {0, 1}
        assert labels(tmp_path / name)[f"{name}/dog/{'e' if name == 'val' else 'b'}"] == 0
    flat = tree(tmp_path / "flat", "a.png")
    (flat / "classes.txt").write_text("person\n")
    assert pack(flat, tmp_path / "unlabelled") | {"left_out": {".txt": 1}, "classes": 0} == pack(
        flat, tmp_path / "again"
    ) | {"output": str(tmp_path / "unlabelled")}


def test_images_without_labels_are_told_how_to_get_some(tmp_path: Path) -> None:
    flat = tree(tmp_path / "flat", "a.png")
    assert "flat: its images get no labels: give them with --labels FILE" in refused(flat).ok().err
    (flat / "a.cls").write_text("3")
    assert "--labels" not in dprune("pack", flat, "-o", tmp_path / "a", "--beside", "cls", "--workers", 0).ok().err
    classes = tree(tmp_path / "classes", "cat/a.png", "b.png")
    assert "--labels" not in dprune("pack", classes, "-o", tmp_path / "b", "--workers", 0).ok().err


def test_flat_splits_are_no_classes(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "train2017/a.png", "val2017/b.png", "example.png")
    summary = pack(folder, tmp_path / "out", "--split", "train2017")
    assert (summary["samples"], summary["classes"], summary["left_out"]) == (1, 0, {"val2017/": 1, "./": 1})
    assert list(members(tmp_path / "out")) == ["train2017/a.png"]


def test_a_single_split_is_taken_and_said(tmp_path: Path) -> None:
    result = dprune("pack", tree(tmp_path / "in", *KAGGLE[:3]), "-o", tmp_path / "out", "--workers", 0).ok()
    assert "split: train" in result.err
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"


def test_a_split_of_any_name_can_be_asked_for(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", "train/cat/a.png", "extra/cat/b.png")
    assert pack(folder, tmp_path / "classes")["classes"] == 2
    assert pack(folder, tmp_path / "out", "--split", "extra")["left_out"] == {"train/": 1}
    refused(tree(tmp_path / "flat", "a.png"), "--split", "train").fails(3, "flat", "no split 'train'")
    refused(tmp_path / "out", "--split", "train").fails(2, "--split and --beside are for folders and zips of images")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train/cat", "train/dog", "val/cat"], ["cat", "dog", None]),
        (["Training", "Testing"], ["", None]),
        (["training_set/training_set/cats", "test_set/test_set/cats"], ["training_set/cats", None]),
        (["a/train", "a/valid", "b/train", "b/valid"], ["a", None, "b", None]),
        (["a/b/train/x", "a/b/test/x", "a/b/notes"], ["x", None, None]),
        (["train-images", "held-out", ""], ["", None, None]),
        (["bus", "train", "car"], None),
        (["train2014", "train2017"], ["", None]),
        (["train", ""], None),
        (["a/train", "b"], None),
        (["cat", "dog"], None),
        ([""], None),
    ],
)
def test_which_folders_are_splits(folders: list[str], expected: list[str | None] | None) -> None:
    counts = dict.fromkeys(folders, 1)
    if expected is None:
        assert find_classes("in", counts, None).split is None
        return
    if folders == ["train2014", "train2017"]:
        with pytest.raises(UsageError):
            find_classes("in", counts, None)
    else:
        assert [find_classes("in", counts, None).labels.get(folder) for folder in folders] == expected
    name = next(part for part in folders[0].split("/") if part.lower().startswith("train"))
    found = find_classes("in", counts, name)
    assert [found.labels.get(folder) for folder in folders] == expected
    assert sum(found.left_out.values()) == expected.count(None)


def test_all_splits_number_their_classes_alike(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", *KAGGLE[:4], "test/x.png", "val/eel/y.png")
    for name in ("train", "val"):
        pack(folder, tmp_path / name, "--split", name)
        assert (tmp_path / name / "classes.txt").read_text() == "cat\ndog\neel\n"
    assert labels(tmp_path / "val") == {"val/cat/d": 0, "val/eel/y": 2}
    (folder / "val" / "eel").rename(folder / "val" / "ape")
    dprune("pack", folder, "-o", tmp_path / "train", "--split", "train").fails(3, "made differently", "images")
