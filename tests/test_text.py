"""Keys, tables and masks: written by select, and taken wherever a subset, scores or groups are."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, dprune, dprune_process, sample, write_tar
from hypothesis import given
from hypothesis import strategies as st
from stores import latent_store
from test_sample import make_vae

from dprune.errors import InputError
from dprune.formats.sample_tables import as_csv
from dprune.formats.shards import ShardReader
from dprune.formats.stores import Store
from dprune.formats.text_tables import TextTable
from dprune.inspecting.listing import open_listing


@pytest.fixture
def made(shards: Path, tmp_path: Path) -> Path:
    """The three shards of 18 samples with names of their classes, features, clusters, distances and a choice."""
    (shards / "classes.txt").write_text("cat\ndog\nbird, small\n")
    dprune("embed", shards, "--model", "pixels", "--image-size", "4", "-o", tmp_path / "features").ok()
    clusters = tmp_path / "clusters.safetensors"
    dprune("cluster", tmp_path / "features", "-k", "3", "-o", clusters).ok()
    dprune("score", "cluster-distance", clusters, "-o", tmp_path / "distance.npy").ok()
    dprune("select", tmp_path / "distance.npy", "--keep", "7", "-o", tmp_path / "keep.npy").ok()
    return tmp_path


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode())))


def ids(result: Result) -> list[int]:
    return np.load(io.BytesIO(result.ok().out)).tolist()


def test_a_table_holds_what_is_known(made: Path, shards: Path) -> None:
    args = ("select", made / "distance.npy", "--clusters", made / "clusters.safetensors", "--keep", "7")
    dprune(*args, "-o", made / "k.npy").ok()
    kept, distance = np.load(made / "k.npy").tolist(), np.load(made / "distance.npy")
    rows = rows_of(dprune(*args, "--shards", shards, "--format", "csv").ok().out)
    assert list(rows[0]) == ["id", "key", "shard", "label", "class", "cluster", "score"]
    assert [int(row["id"]) for row in rows] == kept
    assert [row["key"] for row in rows] == [f"s{i:03d}" for i in kept]
    assert [row["shard"] for row in rows] == [f"{(i >= 7) + (i >= 12):06d}.tar" for i in kept]
    assert [row["class"] for row in rows] == [("cat", "dog", "bird, small")[i % 3] for i in kept]
    assert [np.float32(row["score"]) for row in rows] == distance[kept].tolist()
    rows = rows_of(dprune(*args, "--format", "csv").ok().out)
    assert list(rows[0]) == ["id", "label", "class", "cluster", "score"], "of clusters alone neither keys nor shards"


@pytest.mark.parametrize("form", ["keys", "csv", "mask", "bare keys", "bare csv", "tsv", "edited", "paths"])
def test_a_subset_has_one_digest_however_it_is_written(made: Path, shards: Path, form: str) -> None:
    """Through the real commands: shards, stores and select take each form, and record the same subset."""
    kept = np.load(made / "keep.npy")
    file, args = made / "given", ("select", "--within", made / "keep.npy", "--shards", shards, "--format")
    if form == "mask":
        with file.open("wb") as target:
            np.save(target, np.isin(np.arange(18), kept))
    elif form in ("keys", "csv"):
        dprune(*args, form, "-o", file).ok()
    elif form == "paths":
        file.write_text("".join(f"old/place/s{i:03d}.png\r\n" for i in kept))
    else:
        text = dprune(*args, "keys" if form == "bare keys" else "csv").ok().out
        table = {"tsv": text.replace(b",", b"\t"), "edited": b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")}
        file.write_bytes(table.get(form, text))
    whole = ids(dprune("select", "--within", file, "--shards", shards))
    assert whole == kept.tolist()
    assert ids(dprune("select", "--within", file, "--shards", made / "features")) == whole
    dprune("pack", shards, "--subset", file, "-o", made / "packed").ok()
    dprune("pack", shards, "--subset", made / "keep.npy", "-o", made / "same").ok()
    given, same = (json.loads((made / name / "manifest.json").read_text()) for name in ("packed", "same"))
    digests = [manifest["provenance"]["parents"]["subset"]["digest"] for manifest in (given, same)]
    assert digests[0] == digests[1]
    assert [entry["count"] for entry in given["shards"]] == [7]


def test_training_and_scoring_take_keys_of_a_latent_store(made: Path, shards: Path) -> None:
    vae = make_vae(made / "vae.safetensors")
    dprune("encode", shards, "--vae", vae, "--workers", "0", "-o", made / "latents").ok()
    keys = made / "keep.txt"
    dprune("select", "--within", made / "keep.npy", "--shards", shards, "--format", "keys", "-o", keys).ok()
    for command in (("train-dit", "--arch", "nano/2"), ("train-dit", "--arch", "nano/2", "--fold", "0/2")):
        plan = [
            json.loads(dprune(command[0], made / "latents", *command[1:], "--subset", subset, "-o", made / "run",
                              "--dry-run", "--json").ok().out)
            for subset in (keys, made / "keep.npy")
        ]  # fmt: skip
        assert plan[0]["provenance"]["options"] == plan[1]["provenance"]["options"]
        parents = [record["provenance"]["parents"]["subset"]["digest"] for record in plan]
        assert parents[0] == parents[1]
    keys.write_text("s000\nnobody\n")
    words = ("keep.txt: line 2", "has the key 'nobody'")
    dprune("train-dit", made / "latents", "--subset", keys, "-o", made / "run").fails(3, *words)


def test_measuring_takes_keys(made: Path, shards: Path) -> None:
    (made / "train.txt").write_text("".join(f"s{i:03d}\n" for i in range(12)))
    (made / "held.csv").write_text("key,note\n" + "".join(f"s{i:03d},new\n" for i in range(12, 18)))
    np.save(made / "train.npy", np.arange(12))
    np.save(made / "held.npy", np.arange(18) >= 12)
    results = []
    for side in (made / "features", shards):
        for train, held in (("train.txt", "held.csv"), ("train.npy", "held.npy")):
            chosen = ("--subset", made / train, "--held-out", made / held, "--device", "cpu", "--overwrite")
            network = ("--model", "pixels", "--image-size", "4") if side == shards else ()
            out = made / "out.json"
            for command in (("memorization",), ("eval", "--metrics", "fid")):
                dprune(command[0], side, side, *command[1:], *chosen, *network, "-o", out).ok()
                found = json.loads(out.read_text())
                results.append((found["metrics"], [entry["count"] for entry in found["inputs"]]))
    assert results[0] == results[2]
    assert results[1] == results[3]
    assert results[4:6] == results[6:8]
    assert [counts for _, counts in results] == [[18, 12, 6]] * 8
    np.save(made / "x.npy", np.random.default_rng(0).normal(size=(18, 4)))
    args = ("eval", made / "x.npy", made / "x.npy", "--subset", made / "train.txt", "-o", made / "m")
    dprune(*args).fails(3, "train.txt: holds keys", "--shards SHARDS")


def test_a_store_of_before_keys_were_kept_says_what_to_do(tmp_path: Path) -> None:
    latent_store(tmp_path / "latents")
    (tmp_path / "k.txt").write_text("a\n")
    args = ("train-dit", tmp_path / "latents", "--subset", tmp_path / "k.txt", "-o", tmp_path / "run")
    dprune(*args).fails(3, "holds no keys", "dprune select --within FILE --shards SHARDS -o keep.npy")


def test_ids_of_another_dataset_are_found_by_their_keys(made: Path, shards: Path) -> None:
    """A table has both, so that it means the same samples in shards where their ids are others."""
    dprune("select", "--within", made / "keep.npy", "--shards", shards, "--format", "csv", "-o", made / "k.csv").ok()
    parts = [part for i in reversed(range(18)) for part in sample(f"s{i:03d}", i, i % 3)]
    write_tar(made / "turned" / "0.tar", parts)
    kept = np.load(made / "keep.npy")
    assert ids(dprune("select", "--within", made / "k.csv", "--shards", made / "turned")) == sorted(17 - kept)
    dprune("select", made / "distance.npy", "--keep", "2", "--within", made / "k.csv").ok()
    dprune("embed", made / "turned", "--model", "pixels", "--image-size", "4", "-o", made / "other").ok()
    (made / "i.csv").write_text("id\n0\n99\n")
    dprune("select", "--within", made / "i.csv", "--shards", made / "turned").fails(3, "holds the id 99", "18 samples")


SCORES = {
    "keys, header": "key,el2n\ns003,0.5\ns001,2.5\ns002,\ns000,1.5\n",
    "keys": "s003,0.5\ns001,2.5\ns002,nan\ns000,1.5\n",
    "ids, header": "el2n\tID\n5e-1\t3\n2.5\t1\n\t2\n1.5\t0\n",
    "pandas": ",key,el2n\n0,s003,0.5\n1,s001,2.5\n2,s002,\n3,s000,1.5\n",
    "ids": "3;.5\n1;2.5\n2;NaN\n0;1.5\n",
    "named": 'id,key,note,score\n3,s003,x,.5\n1,s001,"a, b",2.5\n2,s002,,\n0,s000,y,1.5\n',
}


@pytest.mark.parametrize("text", SCORES.values(), ids=SCORES)
def test_scores_are_read_from_tables(shards: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    args = ("select", tmp_path / "s.csv", "--shards", shards)
    assert ids(dprune(*args, "--keep", "2")) == [0, 3]
    assert ids(dprune(*args, "--keep", "100%")) == [0, 1, 3], "one that is missing is not scored"
    assert ids(dprune("select", "-", "--shards", shards, "--keep", "2", stdin=text.encode())) == [0, 3]


def test_tables_of_ids_need_no_shards(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,score\n3,0.5\n1,2.5\n")
    (tmp_path / "g.csv").write_text("id,group\n0,1\n1,1\n3,0\n7,1\n")
    args = ("select", tmp_path / "s.csv", "--keep", "50%")
    assert ids(dprune(*args)) == [3]
    assert ids(dprune(*args, "--groups", tmp_path / "g.csv", "--only", "1")) == [1]
    np.save(tmp_path / "g.npy", np.zeros(3, np.int64))
    dprune(*args, "--groups", tmp_path / "g.npy").fails(3, "s.csv: line 2 has the id 3", "3 samples")
    (tmp_path / "s.csv").write_text("3,0.5\n1,2.5\n")
    dprune(*args).fails(3, "s.csv: may hold keys or ids", "id or key above")
    (tmp_path / "s.csv").write_text("key,score\ns003,0.5\n")
    assert "--within" not in dprune(*args).fails(3, "s.csv: holds keys", "with --shards").err
    (tmp_path / "k.csv").write_text("id,keep\n3,True\n1,1\n")
    assert ids(dprune("select", "--within", tmp_path / "k.csv")) == [1, 3]


def test_groups_are_read_from_tables(made: Path, shards: Path) -> None:
    args = ("select", "--order", "random", "--cap", "1", "--shards", shards)
    (made / "g.csv").write_text("key,class\n" + "".join(f"s{i:03d},{'dog' if i % 2 else 'ant'}\n" for i in range(9)))
    rows = rows_of(dprune(*args, "--groups", made / "g.csv", "--format", "csv").ok().out)
    assert [row["class"] for row in sorted(rows, key=lambda row: int(row["id"]) % 2)] == ["ant", "dog"]
    assert "kept by class: dog: 1" in dprune(*args, "--groups", made / "g.csv", "--only", "dog").ok().err
    dprune("select", made / "distance.npy", "--clusters", made / "clusters.safetensors", "--keep", "100%", "--shards",
           shards, "--format", "csv", "-o", made / "all.csv").ok()  # fmt: skip
    rows = rows_of(dprune(*args, "--groups", made / "all.csv", "--format", "csv").ok().out)
    assert len(rows) == 3, "labels, of the columns label, class and cluster"
    rows = rows_of(dprune(*args, "--groups", f"{made / 'all.csv'}:cluster", "--format", "csv").ok().out)
    assert {row["group"] for row in rows} == {"0", "1", "2"}
    again = dprune("select", made / "all.csv", "--keep", "7", "--shards", shards)
    assert ids(again) == np.load(made / "keep.npy").tolist(), "scores come back as they were"


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("scores", "key,score\ns001,1\ns002,many\n", ["line 3", "'many' is not a number"]),
        ("scores", "key,score\ns001,1_0\n", ["line 2", "'1_0' is not a number"]),
        ("scores", "name,el2n\ns001,1\n", ["line 1", "has the key 'name'"]),
        ("scores", "key,score\ns001,1\ns999,2\n", ["line 3", "has the key 's999'"]),
        ("scores", "key,score\ns001,1\ns002,1\ns001,1\n", ["line 4", "the same sample as line 2"]),
        ("scores", "key,a,b\ns001,1,2\n", ["the columns a and b", "by {file}:COLUMN"]),
        ("scores", "s001,1,2\n", ["3 columns and no header"]),
        ("scores", "key,score\ns001,1,2\n", ["line 2 has 3 columns", "the header 2"]),
        ("scores", "key,score\ns001,\"1\n", ["line 2", "not a row of a table"]),
        ("scores", "id,score\n1.5,2\n", ["line 2", "'1.5' is not an id"]),
        ("scores", "key\ns001\n", ["one column"]),
        ("scores", "\n", ["holds no values"]),
        ("groups", "key,label\ns001,1\ns002,dog\n", ["line 3", "'dog' is not a whole number"]),
        ("groups", "key,label\ns001,0.5\ns002,1\n", ["line 2", "'0.5' is not a whole number"]),
        ("groups", "key,score\ns001,0.5\ns002,1.5\n", ["line 2", "'0.5' is not a whole number"]),
        ("within", "0\n1\n1\n" * 6, ["0 and 1 alone", "mask", "as bool"]),
        ("within", "id,keep\n0,True\n1,False\n", ["whose keep is false", "leave those out"]),
        ("within", "s001\n" * 200 + "s0\0\n", ["line 201 holds a zero byte"]),
        ("within", "\ufeffs001\n".encode("utf-16-le").decode("latin1"), ["UTF-16", "UTF-8"]),
        ("within", "key,x\ns001,1,2\n", ["line 2 has 3 columns"]),
        ("within", "id\n-1\n", ["line 2", "'-1' is not an id"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_line(shards: Path, tmp_path: Path, option: str, text: str, words: list[str]) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode("latin1") if text.isascii() or "\xff" in text else text.encode())
    np.save(tmp_path / "s.npy", np.arange(18.0))
    given = [file] if option == "scores" else [tmp_path / "s.npy", f"--{option}", file]
    result = dprune("select", *given, "--keep", "2", "--shards", shards)
    result.fails(3, "t.csv", *(word.format(file=file) for word in words))


def test_an_id_beyond_memory_is_named(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    table.write_text("id,score\n0,1\n999999999999999999,2\n1,3\n")
    dprune("select", table, "--keep", "50%", "-o", tmp_path / "k.npy").fails(3, "s.csv: line 3", "memory")


def test_whole_numbers_below_0_are_scores(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(-3, 15))
    np.save(tmp_path / "g.npy", np.arange(18) % 3 - 1)
    text = dprune("select", tmp_path / "s.npy", "--groups", tmp_path / "g.npy", "--keep", "2", "--format", "csv").ok()
    assert text.out.decode().splitlines() == ["id,group,score", "1,0,-2", "2,1,-1"]


def test_numbers_that_may_be_keys_or_ids_are_told(tmp_path: Path) -> None:
    numbers = sorted(range(12), key=str)
    write_tar(tmp_path / "shards" / "0.tar", [part for i in numbers for part in sample(str(i), i, 0)])
    (tmp_path / "k.txt").write_text("2\n10\n")
    args = ("select", "--within", tmp_path / "k.txt", "--shards", tmp_path / "shards")
    result = dprune(*args, "--format", "keys", "-o", tmp_path / "keys.txt").ok()
    assert "k.txt: its numbers are taken as keys" in result.err
    for content in ("key\n2\n10\n", "0\n1\n", (tmp_path / "keys.txt").read_text()):
        (tmp_path / "k.txt").write_text(content)
        assert "taken as keys" not in dprune(*args).err
    (tmp_path / "k.txt").write_text("id\n2\n10\n")
    assert ids(dprune(*args)) == [2, 10]


def test_a_mask_is_of_all_samples(made: Path, shards: Path) -> None:
    np.save(made / "mask.npy", np.arange(17) > 9)
    words = ("mask.npy: is a mask of 17 samples", "18")
    dprune("pack", shards, "--subset", made / "mask.npy", "-o", made / "p").fails(3, *words)
    dprune("select", made / "distance.npy", "--without", made / "mask.npy").fails(3, *words)
    found = json.loads(dprune("info", made / "mask.npy", "--json").ok().out)["files"][0]
    assert (found["kind"], found["content"]["samples"], found["content"]["kept"]) == ("mask", 17, 7)
    dprune("info", shards, made / "mask.npy").fails(3, "mask.npy", "17", "18")


def test_text_is_bare_in_a_pipe_and_carries_provenance_in_a_file(made: Path, shards: Path) -> None:
    args = ("select", made / "distance.npy", "--keep", "3", "--shards", shards, "--format")
    for form in ("keys", "csv"):
        bare = dprune_process(*args, form).ok().out
        dprune(*args, form, "-o", made / f"k.{form}").ok()
        first, below = (made / f"k.{form}").read_bytes().split(b"\n", 1)
        assert first.startswith(b"# dprune ")
        assert below == bare
        assert "up to date" in dprune(*args, form, "-o", made / f"k.{form}").ok().err
        found = json.loads(dprune("info", made / f"k.{form}", "--json").ok().out)["files"][0]
        assert found["provenance"]["options"]["keep"] == "3"
        assert found["content"]["kept"] == 3


def test_a_table_that_was_changed_is_not_what_was_chosen(made: Path, shards: Path) -> None:
    dprune("select", "--within", made / "keep.npy", "--shards", shards, "--format", "csv", "-o", made / "k.csv").ok()
    data = (made / "k.csv").read_bytes()
    below = data.split(b"\n", 1)[1]
    for changed in (
        data.replace(b"cat", b"dog"),
        data[:-9],
        data + b"1,s001,0.tar,1,dog\n",
        data.replace(b"7", b"8", 1),
    ):
        (made / "k.csv").write_bytes(changed)
        dprune("pack", shards, "--subset", made / "k.csv", "-o", made / "p").fails(3, "k.csv: is not the text that its")
    (made / "k.csv").write_bytes(below.replace(b"cat", b"dog"))
    found = json.loads(dprune("pack", shards, "--subset", made / "k.csv", "-o", made / "p", "--json").ok().out)
    assert found["samples"] == 7
    record = json.loads((made / "p" / "manifest.json").read_text())["provenance"]
    assert record["parents"]["subset"]["external"], "without its first line it is anybody's"


def test_what_comes_through_a_pipe(made: Path, shards: Path) -> None:
    """Keys by process substitution and by stdin, wherever subsets are read."""
    keys = "".join(f"s{i:03d}\n" for i in range(3))
    read, write = os.pipe()
    with open(write, "w") as end:
        end.write(keys)
    side = made / "features"
    args = ("memorization", side, side, "--subset", "-", "--held-out", f"/dev/fd/{read}", "-o", made / "m.json")
    others = "".join(f"s{i:03d}\n" for i in range(3, 9)).encode()
    dprune(*args, stdin=others).ok()
    os.close(read)
    assert [side["count"] for side in json.loads((made / "m.json").read_text())["inputs"]] == [18, 6, 3]
    dprune("pack", shards, "--subset", "-", "-o", made / "p", stdin=keys.encode()).ok()
    assert ids(dprune("select", "--within", "-", "--shards", shards, stdin=keys.encode())) == [0, 1, 2]


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1))
def test_any_table_comes_back(rows: list[tuple[str, str]]) -> None:
    columns = dict(zip(("key", "note"), zip(*rows, strict=True), strict=True))
    data = as_csv(columns).encode("utf-8", "surrogatepass")
    try:
        table = TextTable("t.csv", data)
        found = [tuple(row.cells) for row in table.rows]
    except InputError:
        assert any(ord(char) < 32 or char == "\x7f" for pair in rows for text in pair for char in text)
        return
    if not any(char in text for pair in rows for text in pair for char in "\r\udc80\ud800"):
        assert table.head == ("key", "note")
        assert found == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_sentence(data: bytes) -> None:
    try:
        table = TextTable("t", data)
        rows = table.rows
    except InputError as error:
        said = str(error)
    else:
        said = "t: "
        assert len(table.lines) <= data.count(b"\n") + 1
        assert len({len(row.cells) for row in rows}) <= 1
    assert said.startswith("t: ")


def test_samples_are_listed_with_what_belongs_to_them(made: Path, shards: Path) -> None:
    kept = np.load(made / "keep.npy").tolist()
    names = ("cat", "dog", "bird, small")
    expected = [f"{i}\ts{i:03d}\t{(i >= 7) + (i >= 12):06d}.tar\t{i % 3}\t{names[i % 3]}" for i in kept]
    for source in (shards, made / "features"):
        lines = dprune("info", made / "keep.npy", "--shards", source).ok().out.decode().splitlines()
        assert lines == ["id\tkey\tshard\tlabel\tclass", *expected]
    first = dprune("info", made / "keep.npy", "--shards", shards, "--head", "2").ok().out.decode().splitlines()
    assert first == lines[:3]
    np.save(made / "s.npy", np.array([np.nan, 0.1, np.inf, *range(15)], np.float32))
    found = json.loads(dprune("info", made / "s.npy", "--shards", shards, "--head", "3", "--json").ok().out)
    assert found["count"] == 18
    assert [row["score"] for row in found["samples"]] == [None, 0.1, None]
    assert found["samples"][1] == {"id": 1, "key": "s001", "shard": "000000.tar", "label": 1, "class": "dog",
                                   "score": 0.1}  # fmt: skip
    text = dprune("select", "--within", made / "keep.npy", "--shards", shards, "--format", "keys").ok().out
    assert dprune("info", "-", "--shards", shards, stdin=text).ok().out.decode().splitlines() == lines
    lines = dprune("info", made / "clusters.safetensors", "--shards", shards).ok().out.decode().splitlines()
    assert (lines[0].split("\t")[-2:], len(lines)) == (["cluster", "distance"], 19)


def test_a_listing_on_a_terminal_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part for i in range(30) for part in sample(f"k\x1b{i}", i % 3)]
    write_tar(tmp_path / "d" / "0.tar", parts)
    np.save(tmp_path / "all.npy", np.arange(30))
    listing, read = open_listing([str(tmp_path / "all.npy")], [str(tmp_path / "d")]), list[int]()
    monkeypatch.setattr(ShardReader, "label", lambda _, row: read.append(row) or -1)
    text = listing.text(60)
    assert len(read) == 20, "labels cost a read each"
    # Where the folder's name is long, the heading is broken.
    assert "30 samples of" in " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    assert r"k\x1b19" in text
    assert r"k\x1b20" not in text
    assert "and 10 more" in text
    assert "label" not in text, "none has one"
    asked = open_listing([str(tmp_path / "all.npy")], [str(tmp_path / "d")], head=25).text(60)
    assert r"k\x1b24" in asked


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["{k}", "{k}", "--shards", "{d}"], 2, ["one file"]),
        (["{k}", "--head", "3"], 2, ["--head", "--shards"]),
        (["{m}", "--shards", "{d}"], 3, ["mask of 17 samples"]),
        (["{s}", "--shards", "{d}"], 3, ["17 samples", "18"]),
        (["{t}", "--shards", "{d}"], 3, ["line 2", "'nobody'"]),
        (["{d}", "--shards", "{d}"], 3, ["shards: is a folder"]),
    ],
)
def test_what_cannot_be_listed(shards: Path, tmp_path: Path, args: list[str], code: int, words: list[str]) -> None:
    places = {name: tmp_path / name for name in "kmst"} | {"d": shards}
    for name, values in {"k": np.arange(3), "m": np.zeros(17, bool), "s": np.zeros(17)}.items():
        with places[name].open("wb") as file:
            np.save(file, values)
    places["t"].write_text("s001\nnobody\n")
    dprune("info", *(arg.format(**places) for arg in args)).fails(code, *words)


def test_parts_without_keys_are_whole_and_stay(made: Path, shards: Path) -> None:
    """A store that an older dprune made is up to date, and all that needs no keys of it goes on."""
    store = Store.open(made / "features", "features")
    before = store.fingerprint
    for shard in store.shards:
        part = store.part(shard)
        assert part is not None
        tensors = {name: store.read(shard, name) for name in ("features", "label")}
        store.publish_part(shard, tensors, part["members"], part["count"], part["bad"])  # type: ignore[arg-type]
    (made / "k.txt").write_text("s001\n")
    again = dprune("embed", shards, "--model", "pixels", "--image-size", "4", "-o", made / "features").ok()
    assert "up to date" in again.err
    assert Store.open(made / "features", "features").fingerprint == before
    assert "sound" in dprune("info", made / "features").ok().out.decode()
    lines = dprune("info", made / "keep.npy", "--shards", made / "features").ok().out.decode().splitlines()
    assert lines[0] == "id\tshard\tlabel\tclass"
    args = ("eval", made / "features", made / "features", "--metrics", "fid", "--device", "cpu", "-o", made / "m.json")
    dprune(*args, "--subset", made / "k.txt").fails(3, "features: holds no keys", "--shards SHARDS")
    dprune(*args, "--subset", made / "keep.npy").ok()


def test_a_part_whose_keys_do_not_fit_is_refused(made: Path) -> None:
    store = Store.open(made / "features", "features")
    part = store.part(store.shards[0])
    assert part is not None
    tensors = {name: store.read(store.shards[0], name) for name in ("features", "label")}
    store.publish_part(store.shards[0], tensors, part["members"], part["count"], [], keys=["a", "b"])  # type: ignore[arg-type]
    dprune("select", "--within", made / "keep.npy", "--shards", made / "features", "--format", "keys").fails(
        3, "000000.safetensors: has 2 keys for 7 samples"
    )
