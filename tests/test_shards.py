"""Datasets: how sources name shards, the index of a shard and its cache, ids and fingerprints."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, dprune_process, image_bytes, sample, write_tar

from dprune.errors import BadImage, InputError
from dprune.formats import index_cache
from dprune.formats.cache import cache_folder
from dprune.formats.features import open_features
from dprune.formats.index_cache import cached_index
from dprune.formats.manifests import read_manifest
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import make_record
from dprune.formats.publish import publish_json
from dprune.formats.ranges import bytes_digest
from dprune.formats.shard_index import build_index
from dprune.formats.shards import ShardReader, open_dataset
from dprune.formats.temporary import temporary_name


def names(*sources: object) -> list[str]:
    return [shard.name for shard in open_dataset([str(source) for source in sources]).shards]


# The index.


def test_an_index_has_samples_members_and_labels(tmp_path: Path) -> None:
    members = [("x/a.JPG", b"1"), ("x/a.cls", b"7"), ("x/a.seg.png", b"2"), ("b.webp", b"3"), ("b.json", b"{}")]
    index = build_index(str(write_tar(tmp_path / "0.tar", members)))
    assert [index.key(row) for row in range(len(index))] == ["x/a", "b"]
    assert [index.suffix(int(member)) for member in index.image] == ["jpg", "webp"]
    assert [index.name(member) for member in range(5)] == [name for name, _ in members]
    assert index.label.tolist() == [1, -1]
    assert (index.start.tolist(), index.stop.tolist()) == ([0, 3], [3, 5])


def test_of_several_images_the_first_kind_counts(tmp_path: Path) -> None:
    index = build_index(str(write_tar(tmp_path / "0.tar", [("a.png", b"1"), ("a.jpg", b"22")])))
    assert index.size[index.image].tolist() == [2]


def test_samples_without_image_are_none(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.txt", b"1"), ("a.cls", b"1"), *sample("b", 1, 4), ("c.json", b"")])
    index = build_index(str(path))
    assert [index.key(row) for row in range(len(index))] == ["b"]
    reader = ShardReader(open_dataset([str(path)]).shards[0], index)
    assert (reader.image(0), reader.label(0)) == (image_bytes(1), 4)


def test_keys_without_an_image_are_counted_with_their_suffixes(tmp_path: Path) -> None:
    members = [(f"{key}.05.png", b"1") for key in "abc"] + [("d.input.png", b"1"), ("d.txt", b"t"), *sample("e", 1)]
    path = write_tar(tmp_path / "t" / "0.tar", members)
    result = dprune("embed", path, "--model", "pixels", "-o", tmp_path / "e").ok()
    told = "4 keys have no image; their suffixes: 05.png (3), input.png (1), txt (1): name one with --image-member."
    assert result.err.count(told) == 1
    write_tar(path, members[:4])
    for command in (["pack"], ["embed", "--model", "pixels"], ["score", "random"]):
        failed = dprune(*command, path, "-o", tmp_path / "none")
        failed.fails(3, "t: holds no image that can be used", "05.png (3), input.png (1): name one with --image-member")
        assert not (tmp_path / "none").exists()


def test_links_to_images_are_samples_and_those_that_lead_out_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, kind, link in (("a.png", b"0", ""), ("b.png", b"1", "a.png"), ("c.png", b"2", "a.png"),
                                 ("d.png", b"2", "/x.png")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = 0 if link else len(image_bytes(7))
            tar.addfile(info, io.BytesIO(image_bytes(7)))
    result = dprune("pack", tmp_path / "0.tar", "-o", tmp_path / "out").ok()
    assert "1 link leads to no file of the tar (d.png -> /x.png)" in result.err
    dataset = open_dataset([str(tmp_path / "out")])
    reader = ShardReader(dataset.shards[0], dataset.shards[0].index())
    assert [(reader.index.key(row), reader.image(row)) for row in range(3)] == [(k, image_bytes(7)) for k in "abc"]
    assert len(dataset) == 3


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([*sample("a", 1), *sample("b", 2), ("a.cls", b"1")], "not adjacent"),
        ([*sample("a", 1), *sample("b", 2), *sample("a", 3)], "key occurs twice"),
        ([*sample("a", 1), *sample("a", 2)], "twice"),
        ([("a.jpg", b""), ("a.JPG", b"")], "twice"),
    ],
)
def test_members_that_make_no_samples(members: list[tuple[str, bytes]], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        build_index(str(write_tar(tmp_path / "0.tar", members)))


def test_hidden_members_between_those_of_a_sample_do_not_part_it(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("._a.cls", b"x"), ("README", b"x"), ("a.cls", b"1")]
    assert build_index(str(write_tar(tmp_path / "0.tar", members))).label.tolist() == [1]


def test_long_and_unicode_keys(tmp_path: Path) -> None:
    keys = ["k" * 150, "猫/é", "d/" * 60 + "x"]
    path = write_tar(tmp_path / "0.tar", [part for i, key in enumerate(keys) for part in sample(key, i)])
    index = build_index(str(path))
    assert [index.key(row) for row in range(3)] == keys


def test_a_label_that_is_no_number(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", b""), ("a.cls", b"cat")])
    shard = open_dataset([str(path)]).shards[0]
    with pytest.raises(InputError, match=r"a\.cls holds b'cat', not a whole number of 64 bits"):
        ShardReader(shard, shard.index()).label(0)


def test_an_empty_shard_has_no_samples_and_a_warning(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    write_tar(tmp_path / "1.tar", sample("a", 1))
    result = dprune("score", "random", tmp_path, "-o", tmp_path / "r.npy").ok()
    assert "0.tar holds no samples" in result.err
    dprune("score", "random", tmp_path / "0.tar", "-o", tmp_path / "q.npy").fails(3, "holds no image", "are empty")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Samples with an input and a target image, a decoy, and their labels in JSON."""
    members = [
        part
        for row in range(6)
        for part in (
            (f"s{row}.input.png", image_bytes(row)), (f"s{row}.target.jpg", image_bytes(50, suffix="jpg")),
            (f"s{row}.jpg", image_bytes(60, suffix="jpg")), (f"s{row}.json", json.dumps({"label": row % 3}).encode()),
        )
    ]  # fmt: skip
    return write_tar(tmp_path / "pairs" / "0.tar", members)


CHOSEN = ("--image-member", "input.png", "--label-member", "json:label")


def test_pack_makes_of_what_was_chosen_shards_that_need_no_choice(pairs: Path, tmp_path: Path) -> None:
    dprune("pack", pairs, *CHOSEN, "-o", tmp_path / "out").ok()
    dataset = open_dataset([str(tmp_path / "out")])
    reader = ShardReader(dataset.shards[0], dataset.shards[0].index())
    assert [(reader.image(row), reader.label(row)) for row in range(6)] == [(image_bytes(r), r % 3) for r in range(6)]
    assert [suffix for suffix, _ in reader.members(0)] == ["png", "target.jpg", "other.jpg", "json", "cls"]
    (record,) = dataset.records
    assert record["options"]["image_member"] == "input.png"
    assert record["options"]["label_member"] == "json:label"
    dprune("pack", f"pipe:cat {pairs}", *CHOSEN, "-o", tmp_path / "streamed").ok()
    assert (tmp_path / "streamed/000000.tar").read_bytes() == (tmp_path / "out/000000.tar").read_bytes()
    dprune("pack", pairs, "-o", tmp_path / "out").fails(3, "made differently", "image_member")
    dprune("pack", "sklearn:digits", *CHOSEN, "-o", tmp_path / "d").fails(2, "are for shards alone")


def test_whatever_opens_shards_takes_what_was_chosen(pairs: Path, tmp_path: Path) -> None:
    dprune("pack", pairs, *CHOSEN, "-o", tmp_path / "packed").ok()
    pixels = ("--model", "pixels", "--image-size", 4)
    dprune("embed", pairs, *CHOSEN, *pixels, "-o", tmp_path / "chosen").ok()
    dprune("embed", tmp_path / "packed", *pixels, "-o", tmp_path / "e").ok()
    chosen, plain = (open_features(tmp_path / name) for name in ("chosen", "e"))
    np.testing.assert_array_equal(chosen.rows(0, 6), plain.rows(0, 6))
    np.testing.assert_array_equal(chosen.labels(), np.arange(6) % 3)
    dprune("embed", pairs, *pixels, "-o", tmp_path / "chosen").fails(3, "made differently", "image_member")
    dprune("score", "random", pairs, *CHOSEN, "-o", tmp_path / "r.npy").ok()
    dprune("select", tmp_path / "r.npy", "--keep", "0.5", "-o", tmp_path / "keep.npy").ok()
    dprune("pack", pairs, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "half").fails(3, "different datasets")
    dprune("pack", pairs, *CHOSEN, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "half").ok()
    dprune("eval", pairs, tmp_path / "chosen", *CHOSEN, "--metrics", "kid", "-o", tmp_path / "m.json").ok()
    for command in ("encode", "train-vae", "memorization", "select"):
        assert "--image-member" in dprune(command, "--help-all").ok().out.decode()


def test_a_choice_that_no_sample_has(pairs: Path, tmp_path: Path) -> None:
    failed = dprune("pack", pairs, "--image-member", "x.png", "-o", tmp_path / "out")
    failed.fails(3, "6 keys have no image; their suffixes: input.png (6), jpg (6), json (6), target.jpg (6)")
    wrong = dprune(
        "embed", pairs, *CHOSEN[:2], "--label-member", "json:class", "--model", "pixels", "-o", tmp_path / "e"
    )
    wrong.fails(3, "s0.json: has no field 'class'", "--label-member")
    dprune("pack", pairs, "--image-member", ".png", "-o", tmp_path / "out").fails(
        2, "--image-member", "such as input.png"
    )


# The cache.


def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def build(location: str, choice: MemberChoice | None = None) -> object:
        seen.append(location)
        return build_index(location)

    monkeypatch.setattr(index_cache, "build_index", build)
    return seen


def test_a_cached_index_is_the_built_one(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = str(shards / "000000.tar"), walks(monkeypatch)
    built, cached = cached_index(path), cached_index(path)
    assert seen == [path]
    assert built.digest == cached.digest
    for name in ("names", "name_stop", "offset", "size", "start", "stop", "image", "label"):
        np.testing.assert_array_equal(getattr(built, name), getattr(cached, name))
        assert getattr(built, name).dtype == getattr(cached, name).dtype
    assert {path.name for path in shards.iterdir()} == {f"{i:06d}.tar" for i in range(3)}
    assert len(list(cache_folder().glob("*.index"))) == 1


def test_a_changed_shard_is_walked_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = shards / "000000.tar", walks(monkeypatch)
    cached_index(str(path))
    os.utime(path, ns=(1, 1))
    cached_index(str(path))
    write_tar(path, sample("other", 1))
    assert len(cached_index(str(path))) == 1
    assert len(seen) == 3


def test_a_damaged_cache_is_made_again_whatever_is_wrong_in_it(shards: Path, tmp_path: Path) -> None:
    path = str(shards / "000000.tar")
    whole = cached_index(path)
    (entry,) = cache_folder().iterdir()
    data, draw = entry.read_bytes(), np.random.default_rng(0)
    damages = [b"", b"noise" * 100, data[:-3], data + b"x", (1 << 62).to_bytes(8, "little") + data[8:]]
    damages += [
        data[:place] + bytes([data[place] ^ (1 << draw.integers(8))]) + data[place + 1 :]
        for place in draw.integers(0, len(data), 70)
    ]
    for number, content in enumerate(damages):
        entry.write_bytes(content)
        again = cached_index(path)
        assert (again.digest, again.left, len(again)) == (whole.digest, whole.left, 7), number
        for name in ("names", "name_stop", "offset", "size", "header", "start", "stop", "image", "label"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_what_a_killed_process_left_half_written_is_removed(shards: Path) -> None:
    cache_folder().mkdir(exist_ok=True)
    left = cache_folder() / temporary_name("x.index", "4194304-01234567")
    left.write_bytes(b"half")
    dprune_process("score", "random", shards, "-o", shards / "r.npy").ok()
    assert not left.exists()
    assert len(list(cache_folder().iterdir())) == 3


def test_a_shard_whose_members_changed_places_is_walked_again(tmp_path: Path) -> None:
    path, members = tmp_path / "0.tar", [("a.png", image_bytes(1)), ("b.png", image_bytes(1) + b"x")]
    write_tar(path, members)
    before, first = path.stat(), cached_index(str(path))
    write_tar(path, members[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cached_index(str(path)).digest != first.digest


def test_a_cache_that_cannot_be_written_is_done_without(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path / "file"))
    assert len(open_dataset([str(shards)])) == 18


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/dprune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/dprune"


# What names shards.


def test_folders_globs_braces_and_lists(shards: Path, tmp_path: Path) -> None:
    every = [f"{i:06d}.tar" for i in range(3)]
    (shards / "notes.txt").write_text("not a shard")
    (tmp_path / "list.txt").write_text(f"{shards}/000002.tar\n\n  {shards}/00000{{0..1}}.tar\n")
    assert names(shards) == every
    assert names(f"{shards}/*.tar") == every
    assert names(f"{shards}/00000[12].tar") == every[1:]
    assert names(f"{shards}/{{000000..000002}}.tar") == every
    assert names(*(shards / name for name in reversed(every))) == every[::-1]
    assert names(f"@{tmp_path / 'list.txt'}") == ["000002.tar", "000000.tar", "000001.tar"]
    assert names(f"{tmp_path}/sh*") == every


def test_files_whose_names_look_like_patterns(tmp_path: Path) -> None:
    for name in ("a[1].tar", "b{1,2}.tar"):
        write_tar(tmp_path / name, [])
        assert names(tmp_path / name) == [name]
    assert names(tmp_path) == ["a[1].tar", "b{1,2}.tar"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing", "missing: no such file or folder"),
        ("*.zip", "no such file or folder"),
        ("shards/{000000..000005}.tar", r"000003\.tar: no such file"),
        ("{a.tar", "braces are not balanced|no such file"),
        ("@missing.txt", "missing.txt: no such file"),
        ("-", "run dprune pack on it first"),
        ("pipe:cat x.tar", "run dprune pack on it first"),
        ("empty", "holds no .tar files"),
    ],
)
def test_what_names_nothing(source: str, words: str, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards.parent)
    Path("empty").mkdir()
    with pytest.raises(InputError, match=words):
        open_dataset([source])


def test_no_sources() -> None:
    with pytest.raises(InputError, match="no shards given"):
        open_dataset([])


def test_a_shard_that_is_named_twice(shards: Path) -> None:
    same = str(shards / "000000.tar")
    with pytest.raises(InputError, match="named twice"):
        open_dataset([same, same])


def test_only_stores_need_names_that_differ(shards: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "more/000001.tar", sample("other", 1))
    dprune("pack", shards, tmp_path / "more", "-o", tmp_path / "out").ok()
    assert len(open_dataset([str(tmp_path / "out")])) == 19
    embedded = dprune("embed", shards, tmp_path / "more", "--model", "pixels", "-o", tmp_path / "e")
    embedded.fails(3, "000001.tar have the same name", "pack them together with dprune pack")


def test_shards_behind_urls(shards: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/data/000000.tar", (shards / "000000.tar").read_bytes())
    for url in (f"file://{shards}/000000.tar", "memory://data/000000.tar"):
        dataset = open_dataset([url])
        shard = dataset.shards[0]
        reader = ShardReader(shard, shard.index())
        assert (reader.image(3), reader.label(3)) == (image_bytes(3), 0)
        assert dataset.fingerprint == open_dataset([str(shards / "000000.tar")]).fingerprint


@pytest.mark.parametrize("url", ["memory://missing.tar", "file:///missing.tar", "nowhere://x.tar"])
def test_urls_that_do_not_open(url: str) -> None:
    with pytest.raises(InputError, match=url):
        len(open_dataset([url]))


def test_a_glob_that_finds_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match=r"a\.txt: "):
        len(open_dataset([f"{tmp_path}/*"]))


# Folders with a manifest.


def test_unfinished_and_incomplete_folders(shards: Path) -> None:
    listed = [{"name": f"{i:06d}.tar", "count": 1, "digest": ""} for i in range(4)]
    publish_json(shards / "manifest.json", {"kind": "shards", "shards": listed, "provenance": make_record("pack", {})})
    with pytest.raises(InputError, match=r"000003\.tar is missing"):
        open_dataset([str(shards)])
    (shards / ".dprune").mkdir()
    with pytest.raises(InputError, match="is not finished"):
        open_dataset([str(shards)])


def test_manifests_of_others_are_left_alone(shards: Path) -> None:
    for text in ("[]", '{"kind": "theirs"}', "3"):
        (shards / "manifest.json").write_text(text)
        assert read_manifest(shards) == {}
        assert len(open_dataset([str(shards)])) == 18
    (shards / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: is not valid JSON"):
        open_dataset([str(shards)])


# Ids and fingerprints.


def test_ids_are_split_into_rows(shards: Path) -> None:
    dataset = open_dataset([str(shards)])
    assert dataset.counts == [7, 5, 6]
    pieces = dataset.split(np.array([0, 6, 7, 11, 17]))
    assert [piece.tolist() for piece in pieces] == [[0, 6], [0, 4], [5]]
    assert [len(piece) for piece in dataset.split(np.array([], dtype=np.int64))] == [0, 0, 0]


@pytest.mark.parametrize("wrong", [-1, 18])
def test_ids_outside(wrong: int, shards: Path) -> None:
    with pytest.raises(InputError, match=f"id {wrong} is outside .*18 samples"):
        open_dataset([str(shards)]).split(np.sort(np.array([3, wrong])))


def test_the_fingerprint_follows_order_names_members_and_provenance(shards: Path, tmp_path: Path) -> None:
    def fingerprint(*sources: object) -> str:
        return open_dataset([str(source) for source in sources]).fingerprint

    first = fingerprint(shards)
    seen = {first, fingerprint(shards / "000001.tar", shards / "000000.tar", shards / "000002.tar")}
    moved = shards.rename(tmp_path / "moved")
    assert fingerprint(moved) == first
    for seed in (1, 2):
        record = make_record("sample", {}, seed=seed)
        found = [(path.name, build_index(str(path))) for path in sorted(moved.glob("*.tar"))]
        listed = [{"name": name, "count": len(index), "digest": index.digest} for name, index in found]
        publish_json(moved / "manifest.json", {"kind": "shards", "shards": listed, "provenance": record})
        seen.add(fingerprint(moved))
        publish_json(
            moved / "manifest.json",
            {"kind": "shards", "shards": listed, "provenance": {**record, "dprune": "99"}},
        )
        assert fingerprint(moved) in seen
    (moved / "manifest.json").unlink()
    (moved / "000002.tar").rename(moved / "000003.tar")
    seen.add(fingerprint(moved))
    write_tar(moved / "000003.tar", sample("other", 1))
    seen.add(fingerprint(moved))
    assert len(seen) == 6


@pytest.mark.parametrize("name", ["../victim", "/etc/hosts", "..", "", 3])
@pytest.mark.parametrize("kind", ["shards", "features", "sweep"])
def test_manifests_that_name_files_elsewhere_are_refused(kind: str, name: object, tmp_path: Path) -> None:
    listed = {
        "shards": {"shards": [{"name": name, "count": 1, "digest": ""}]},
        "features": {"shards": [name], "datasets": []},
    }
    content = {"kind": kind, "provenance": {}, **listed.get(kind, {"files": [name]})}
    publish_json(tmp_path / "manifest.json", content)
    with pytest.raises(InputError, match=r"outside its folder|not text"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("kind", ["shards", "features", "latents"])
def test_manifests_without_what_their_kind_has_are_refused(kind: str, tmp_path: Path) -> None:
    publish_json(tmp_path / "manifest.json", {"kind": kind, "provenance": {}})
    with pytest.raises(InputError, match="damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("rows", [[1, 0], [0]])
def test_a_shard_that_becomes_another_during_a_run_is_one_sentence(rows: list[int], tmp_path: Path) -> None:
    members = [sample("a", 1), sample("b", 2)]
    path = write_tar(tmp_path / "a.tar", [part for one in members for part in one])
    shard = open_dataset([str(path)]).shards[0]
    index = shard.index()
    os.rename(write_tar(tmp_path / "b.tar", [part for row in rows for part in members[row]]), path)
    with pytest.raises(InputError, match=r"a\.tar: was changed or cut while it was read: run the command again"):
        shard.index()
    with pytest.raises(InputError, match="while it was read"):
        ShardReader(shard, index).image(1)


def test_members_larger_than_any_image_or_label_are_not_read(tmp_path: Path) -> None:
    """A sparse file stands for members of gigabytes."""
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for name, size in (("a.png", 20 << 30), ("b.png", 100), ("b.cls", 3 << 30), ("c.png", 100)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.PAX_FORMAT))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))
    shard = open_dataset([str(path)]).shards[0]
    reader = ShardReader(shard, shard.index())
    with pytest.raises(BadImage, match="has 21,474,836,480 bytes, more than any image"):
        reader.image(0)
    with pytest.raises(InputError, match=r"b\.cls has 3,221,225,472 bytes, too many for a label"):
        reader.label(1)


@pytest.mark.parametrize("name", ["a.tar", "manifest.json"])
def test_pipes_are_not_waited_for(name: str, shards: Path) -> None:
    os.mkfifo(shards / name)
    for command in ("info", "pack"):
        done = dprune_process(command, shards, *(["-o", shards.parent / "out"] if command == "pack" else []))
        done.fails(3, name, "regular file")


def test_a_shard_that_is_not_the_one_in_the_manifest_is_refused(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dprune("pack", shards, "-o", out, "--shard-size", 6).ok()
    whole = (out / "000001.tar").read_bytes()
    for content, words in (
        (bytes(len(whole)), "zero bytes, not a tar file"),
        (bytes(10_240), "000001.tar: does not hold the members that its manifest.json lists (0 samples for 6)"),
        (whole[:600] + bytes([whole[600] ^ 1]) + whole[601:], "000001.tar: is damaged"),
    ):
        (out / "000001.tar").write_bytes(content)
        dprune("embed", out, "--model", "pixels", "-o", tmp_path / "e").fails(3, words)
        dprune("pack", out / "000001.tar", "-o", tmp_path / "again").fails(3, words)
    (out / "000001.tar").write_bytes(whole)
    dprune("embed", out, "--model", "pixels", "-o", tmp_path / "e").ok()


def test_info_reads_shards_whole_if_it_is_asked_to(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dprune("pack", shards, "-o", out, "--shard-size", 9).ok()
    found = json.loads(dprune("info", out, "--deep", "--json").ok().out)["files"][0]
    assert found["content"]["digests_checked"] == 2
    data = (out / "000001.tar").read_bytes()
    (out / "000001.tar").write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    dprune("info", out).ok()
    for source in (out, out / "000001.tar", f"file://{out}/000001.tar"):
        dprune("info", source, "--deep").fails(3, "000001.tar: is damaged: the file does not match its digest")


def test_info_counts_what_belongs_to_no_sample(pairs: Path) -> None:
    failed = dprune("info", pairs, "--image-member", "input.jpg")
    failed.fails(3, "holds no image that can be used: 6 keys have no image; their suffixes: input.png (6), jpg (6)")
    write_tar(pairs, [*sample("a", 1), ("b.05.png", b"1"), ("c.05.png", b"1")])
    found = json.loads(dprune("info", pairs, "--json").ok().out)["files"][0]["content"]
    assert (found["samples"], found["keys_without_an_image"], found["their_suffixes"]) == (1, 2, {"05.png": 2})


def test_a_shards_digest_is_taken_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = tmp_path / "out", []
    dprune("pack", shards, "-o", out, "--shard-size", 6).ok()
    monkeypatch.setattr(index_cache, "bytes_digest", lambda location: seen.append(location) or bytes_digest(location))
    assert len(open_dataset([str(out)])) == len(open_dataset([str(out)])) == 18
    assert sorted(seen) == sorted(str(path) for path in out.glob("*.tar"))
    os.utime(out / "000000.tar", ns=(1, 1))
    assert len(open_dataset([str(out)])) == 18
    assert seen[3:] == [str(out / "000000.tar")]


def test_shards_in_the_current_folder_have_a_name(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)
    assert open_dataset(["."]).title == open_dataset(["000000.tar"]).title == "shards"
    assert open_dataset(["../shards"]).title == "../shards"
    (shards / "below").mkdir()
    monkeypatch.chdir(shards / "below")
    assert open_dataset([".."]).title == "shards"


def test_a_shard_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("a", 1), *sample("b", 2)])
    reader = ShardReader(open_dataset([str(path)]).shards[0], build_index(str(path)))
    os.truncate(path, 1500)
    with pytest.raises(InputError, match="while it was read"):
        reader.image(1)
