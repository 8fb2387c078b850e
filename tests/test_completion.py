"""What shells complete, `dprune help`, and what is suggested for a name that is misspelt."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import get_completion_class
from conftest import dprune, dprune_process
from test_cli import HEAVY, NAMES, imported_by, subcommands

from dprune.cli import cli
from dprune.formats.clusters import Clusters
from dprune.formats.provenance import make_record
from dprune.models.files import publish_model
from dprune.shell.completion import PLACES, SHELLS, VARIABLE


def completed(*words: str, shell: str = "bash") -> list[tuple[str, str]]:
    """Kind and text of what is offered for the last word."""
    kind = get_completion_class(shell)
    assert kind is not None
    found = kind(cli, {}, "dprune", VARIABLE).get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("s",), ["score", "select", "sample", "status"]),
        (("-v", "--json", "rep"), ["report"]),
        (("score", "m"), ["monotonicity", "moso"]),
        (("select", "--ke"), ["--keep"]),
        (("score", "moso", "--norm"), ["--normalize"]),
        (("sample", "--solver", ""), ["euler", "heun", "dopri5"]),
        (("sample", "x.pt", "--solver", "h"), ["heun"]),
        (("score", "el2n", "x", "--parametrization", "r"), ["reversed"]),
        (("cluster", "features", "--init", "k"), ["kmeans++"]),
        (("train-vae", "--perceptual", ""), ["none", "lpips"]),
        (("train-baseline", ""), ["vae", "gan"]),
        (("embed", "shards", "--model", "dinov2-"), ["dinov2-s", "dinov2-b", "dinov2-l"]),
        (("eval", "a", "b", "--model", "p"), ["pixels"]),
        (("train-dit", "latents", "--arch", "XL/"), ["XL/1", "XL/2", "XL/4", "XL/8", "XL/16"]),
        (("eval", "a", "b", "--metrics", "prdc,k"), ["prdc,kid"]),
        (("eval", "a", "b", "--metrics", "prdc,prd"), ["prdc,prd"]),
        (("sample", "missing", "--classes", "ba"), ["balanced"]),
        (("select", "--only", ""), []),
        (("completion", "f"), ["fish"]),
        (("help", "tr"), ["train-vae", "train-dit", "train-baseline"]),
        (("help", "score", "g"), ["grand"]),
        (("help", "select", ""), []),
        (("help", "slect", ""), []),
        (("sample", "--seeds", ""), []),
    ],
)
def test_names_and_words_are_completed(words: tuple[str, ...], offered: list[str]) -> None:
    found = completed(*words)
    assert {kind for kind, _ in found} <= {"plain"}
    assert [text for _, text in found] == offered


@pytest.mark.parametrize(
    "words",
    [("pack", "ph"), ("select", ""), ("score", "moso", "latents", "r"), ("eval", "a", "b"), ("select", "--within", "k"),
     ("cluster", "x", "--init", "ini"), ("sample", "x.pt", "--vae", ""), ("report", "--baseline", "m"),
     ("embed", "shards", "-o", "f"), ("info", "a", "b", "c")],
)  # fmt: skip
def test_files_are_left_to_the_shell(words: tuple[str, ...]) -> None:
    assert completed(*words) == [("file", words[-1])]


def test_names_and_numbers_in_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "classes.txt").write_text("cat\ncow\ndog\nsea cow\n")
    some = np.zeros(3, dtype=np.float32)
    clusters = tmp_path / "c.safetensors"
    Clusters(np.zeros((12, 2), np.float32), some.astype(np.int32), some, some, np.full(12, 1)).write(clusters)
    model = tmp_path / "model.safetensors"
    network = {"kind": "dit", "classes": 4, "class_names": ["cat", "cow", "dog"]}
    publish_model(model, {}, network, make_record("train-dit", {}))
    groups = ("select", "--groups", str(tmp_path / "shards"), "--only")
    assert completed(*groups, "c") == [("plain", "cat"), ("plain", "cow")]
    assert completed(*groups, "dog,cat,c") == [("plain", "dog,cat,cow")]
    assert completed("select", "--clusters", str(clusters), "--only", "1") == [
        (("plain"), n) for n in ("1", "10", "11")
    ]
    assert completed("sample", str(model), "--classes", "d") == [("plain", "dog")]
    assert completed("sample", str(model), "--classes", "cat,3") == [("plain", "cat,3")]
    clusters.write_bytes(b"damaged")
    assert completed("select", "--clusters", str(clusters), "--only", "") == []


def test_every_parameter_that_names_a_file_is_completed_as_one() -> None:
    for path, command in subcommands():
        ctx = click.Context(command)
        for param in command.params:
            named = set((param.metavar or "").strip("[].").split("|"))
            is_text = isinstance(param.type, click.types.StringParamType) and path != ("help",)
            if (is_text and isinstance(param, click.Argument)) or named & PLACES:
                assert [item.type for item in param.shell_complete(ctx, "/x")] == ["file"], (path, param.opts)


@pytest.mark.parametrize(
    ("shell", "asked", "answer"),
    [
        ("bash", {"COMP_WORDS": "dprune\nselect\n--order\n=\nhi", "COMP_CWORD": "4"}, "plain,highest\n"),
        ("bash", {"COMP_WORDS": "dprune\nselect\n", "COMP_CWORD": "2"}, "file,\n"),
        ("zsh", {"COMP_WORDS": "dprune sel", "COMP_CWORD": "1"}, "plain\nselect\nChoose the samples to keep"),
        ("zsh", {"COMP_WORDS": "dprune info fea", "COMP_CWORD": "2"}, "file\nfea\n_\n"),
        ("fish", {"COMP_WORDS": "dprune sel", "COMP_CWORD": "sel"}, "plain,select\tChoose the samples to keep"),
        ("fish", {"COMP_WORDS": "dprune info fea", "COMP_CWORD": "fea"}, "file,fea\n"),
    ],
)
def test_what_shells_are_answered(shell: str, asked: dict[str, str], answer: str) -> None:
    done = dprune_process(env={VARIABLE: f"{shell}_complete", **asked}).ok()
    assert done.out.decode().startswith(answer)
    assert done.err == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_calls_dprune_when_something_is_completed(shell: str) -> None:
    text = dprune("completion", shell).ok().out.decode()
    assert f"{VARIABLE}={shell}_complete" in text
    assert {"bash": "-F _dprune_completion dprune", "zsh": "compdef _dprune_completion dprune",
            "fish": "--command dprune"}[shell] in text  # fmt: skip
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_the_one_line_is_told() -> None:
    told = (Path(__file__).parent.parent / "README.md").read_text()
    assert INSTALLED["bash"] in told
    assert all(line.removeprefix("dprune completion ") in told for line in INSTALLED.values())
    assert all(line in dprune("help", "completion").ok().out.decode() for line in INSTALLED.values())


def test_an_unknown_shell_is_refused() -> None:
    dprune("completion", "tcsh").fails(2, "'bash', 'zsh', 'fish'")


def test_completing_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "bash_complete")
    for words in ("dprune\ns", "dprune\nscore\nmoso\n--n", "dprune\nsample\n--vae\nx"):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count("\n")))
        assert not imported_by() & (HEAVY | {"PIL", "safetensors"})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a dprune in it, and files to complete."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "dprune"
    root = Path(__file__).parent.parent
    command.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(root))} exec {sys.executable} -m dprune "$@"\n')
    command.chmod(0o755)
    (tmp_path / "features").mkdir()
    (tmp_path / "scores one.npy").touch()
    return tmp_path


INSTALLED = {
    "bash": "dprune completion bash >> ~/.bashrc",
    "zsh": "dprune completion zsh >> ~/.zshrc",
    "fish": "dprune completion fish > ~/.config/fish/completions/dprune.fish",
}


class Terminal:
    """A new interactive shell that a person types into, whose home has had one line of `INSTALLED`."""

    def __init__(self, shell: str, place: Path) -> None:
        (place / ".config" / "fish" / "completions").mkdir(parents=True)
        env = {name: value for name, value in os.environ.items() if name not in ("ZDOTDIR", "XDG_CONFIG_HOME")}
        env |= {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": str(place), "TERM": "dumb"}
        subprocess.run(["sh", "-c", INSTALLED[shell]], env=env, check=True)
        self.pid, self.handle = pty.fork()
        if not self.pid:
            os.chdir(place)
            os.execvpe(shell, [shell, "-i"], env)

    def types(self, keys: str, awaited: str) -> None:
        """Type, and wait until the shell shows something."""
        os.write(self.handle, keys.encode())
        shown, end = "", time.monotonic() + 60
        while awaited not in shown:
            assert time.monotonic() < end, shown
            if select.select([self.handle], [], [], 0.1)[0]:
                shown += os.read(self.handle, 1 << 16).decode(errors="replace")
        os.write(self.handle, b"\x15")

    def close(self) -> None:
        os.close(self.handle)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, place: Path) -> Iterator[Terminal]:
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    found = Terminal(shell, place)
    # What is awaited is not in what is typed.
    found.types("echo rea''dy\n", "ready")
    yield found
    found.close()


def test_a_shell_completes(terminal: Terminal) -> None:
    terminal.types("dprune sel\t", "dprune select ")
    terminal.types("dprune score mos\t", "dprune score moso ")
    terminal.types("dprune select --ke\t", "dprune select --keep ")
    terminal.types("dprune select scor\t", "dprune select scores\\ one.npy")
    terminal.types("dprune info feat\t", "dprune info features/")
    terminal.types("dprune help score gra\t", "dprune help score grand ")


@pytest.mark.parametrize("path", [path for path, _ in subcommands()], ids=" ".join)
def test_help_is_that_of_the_command(path: tuple[str, ...]) -> None:
    assert dprune("help", *path).ok().out == dprune(*path, "--help").ok().out


def test_help_alone_is_that_of_dprune() -> None:
    assert dprune("help").ok().out == dprune("--help").ok().out
    assert all(name in dprune("help").out.decode() for name in NAMES)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("slect",), "No such command 'slect'. Did you mean 'select'?"),
        (("train_dit",), "Did you mean 'train-dit'?"),
        (("moso",), "Did you mean 'score moso'?"),
        (("score", "mosso"), "Did you mean 'moso'?"),
        (("score", "el2"), "Did you mean 'el2n'?"),
        (("select", "x", "--kep", "1"), "Did you mean one of: '--help', '--keep', '--repeat'?"),
        (("score", "moso", "x", "y", "--normalise", "none"), "'--noise', '--normalize'?"),
        (("help", "slect"), "Did you mean 'select'?"),
        (("help", "score", "mosso"), "Did you mean 'moso'?"),
        (("help", "select", "moso"), "dprune select has no command 'moso'"),
        (("--verson",), "'--version'?"),
    ],
)
def test_what_was_meant_is_suggested(args: tuple[str, ...], said: str) -> None:
    dprune(*args).fails(2, said)


def test_what_is_like_nothing_is_only_refused() -> None:
    assert "Did you mean" not in dprune("prune").fails(2, "No such command 'prune'").err
