"""The command line as a whole: what --help imports and says, exit codes, environment variables, verbosity."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from conftest import Result, dprune, dprune_process, sample, write_tar
from safetensors.numpy import save_file

import dprune.inspecting.job as inspecting
from dprune import __version__, console
from dprune.cli import STAGES, cli
from dprune.errors import DpruneError, InputError, Interrupted, MismatchError, UsageError
from dprune.formats.arrays import write_array
from dprune.formats.provenance import make_record
from dprune.formats.publish import publish_json
from dprune.inspecting.job import open_info
from dprune.options import Duration, Tag

NAMES = [name for stage in STAGES.values() for name in stage]
HEAVY = {"torch", "numpy", "rich", "webdataset"}
PRINT_IMPORTS = """
import sys
from dprune.cli import cli
try:
    cli(sys.argv[1:], prog_name="dprune")
finally:
    print("IMPORTED", *sorted(name.partition(".")[0] for name in sys.modules))
"""


def imported_by(*args: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PRINT_IMPORTS, *args], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def walk(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    """A command and, of a group, its methods."""
    children = command.commands.items() if isinstance(command, click.Group) else ()
    return [(path, command), *(found for name, child in children for found in walk(child, (*path, name)))]


def subcommands() -> list[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(cli, info_name="dprune")
    found = []
    for name in NAMES:
        command = cli.get_command(ctx, name)
        assert command is not None
        found += walk(command, (name,))
    return found


def test_help_imports_nothing_heavy() -> None:
    assert not imported_by("--help") & (HEAVY | {"safetensors", "PIL", "sklearn"})


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_subcommand_imports_nothing_heavy(name: str) -> None:
    assert not imported_by(name, "--help") & HEAVY


def test_help_takes_little_cpu() -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-m", "dprune", "--help"], stdout=subprocess.DEVNULL, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    assert min(seconds) < 0.2


def test_help_lists_every_command_under_its_stage() -> None:
    out = dprune("--help").ok().out.decode()
    for stage, commands in STAGES.items():
        assert f"{stage}:" in out
        for name in commands:
            assert f"\n  {name} " in out


def test_version() -> None:
    result = dprune_process("--version").ok()
    assert result.out.decode() == f"dprune, version {__version__}\n"


def test_unknown_command_is_a_usage_error() -> None:
    dprune("prune").fails(2, "prune")


def test_unknown_option_is_a_usage_error() -> None:
    dprune("info", "--color", "x").fails(2, "--color")


def test_every_option_has_one_short_line_of_help() -> None:
    for path, command in subcommands():
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, (path, param.opts)
                assert "\n" not in param.help
                assert len(param.help) <= 100, (path, param.opts)


def test_every_command_says_what_it_does() -> None:
    for path, command in subcommands():
        assert command.help, path
        # A raw docstring would show click's marker to the user.
        assert "\\b" not in command.help, path
        if len(path) == 1:
            assert "\b\n    Examples:\n      dprune " in command.help or "\b\nExamples:\n  dprune " in command.help, (
                path
            )


def test_summaries_of_the_table_are_those_of_the_commands() -> None:
    ctx = click.Context(cli, info_name="dprune")
    for stage in STAGES.values():
        for name, summary in stage.items():
            command = cli.get_command(ctx, name)
            assert command is not None
            assert " ".join((command.help or "").partition("\n\n")[0].split()) == summary


def test_every_option_has_the_variable_that_its_name_says() -> None:
    for path, command in subcommands():
        for param in command.params:
            if isinstance(param, click.Option):
                words = "_".join((*path, max(param.opts, key=len).lstrip("-")))
                assert param.envvar == "DPRUNE_" + words.replace("-", "_").upper()


def test_options_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    monkeypatch.setenv("DPRUNE_INFO_JSON", "1")
    assert dprune("info", tmp_path / "scores.npy").ok().out.startswith(b"{")
    monkeypatch.setenv("DPRUNE_INFO_JSON", "0")
    assert dprune("info", tmp_path / "scores.npy").ok().out.startswith(str(tmp_path).encode())


def test_the_command_line_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    monkeypatch.setenv("DPRUNE_SELECT_KEEP", "2")
    monkeypatch.setenv("DPRUNE_SELECT_OUTPUT", str(tmp_path / "keep.npy"))
    monkeypatch.setenv("DPRUNE_SELECT_TAG", "who=me what=this")
    dprune("select", tmp_path / "scores.npy").ok()
    assert np.load(tmp_path / "keep.npy").tolist() == [0, 1]
    assert b'"tags":{"what":"this","who":"me"}' in (tmp_path / "keep.npy").read_bytes()
    dprune("select", tmp_path / "scores.npy", "--keep", 3, "-o", tmp_path / "three.npy").ok()
    assert len(np.load(tmp_path / "three.npy")) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DpruneError("the machine is broken: mend it."), 1),
        (OSError(28, "No space left on device"), 1),
        (ZeroDivisionError("by zero"), 1),
        (MemoryError("out of memory"), 1),
        (OSError(36, "File name too long", "x"), 3),
        (UsageError("the options differ: give one."), 2),
        (InputError("the file is cut short: make it again."), 3),
        (MismatchError("two files differ: make both again."), 3),
        (Interrupted("stopped; run it again."), 75),
    ],
)
def test_errors_have_their_exit_code_and_one_sentence(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(inspecting, "open_info", fail)
    result = dprune("info", "x").fails(code, str(error).rpartition("] ")[2].partition(": 'x'")[0].rstrip("."))
    assert result.out == b""


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_interrupts_end_with_130(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(inspecting, "open_info", fail)
    dprune("info", "x").fails(130, "interrupted")


@pytest.mark.parametrize("args", [("--help",), ("info", "--json"), ("select", "--keep", "1.0")])
def test_a_closed_pipe_ends_with_1_and_no_traceback(args: tuple[str, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.arange(20_000, dtype=np.float32))
    files = [] if args == ("--help",) else [str(tmp_path / "scores.npy")]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dprune", *args, *files]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_arrays_do_not_go_to_a_terminal(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    master, slave = os.openpty()
    command = [sys.executable, "-m", "dprune", "select", str(tmp_path / "scores.npy"), "--keep", "2"]
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert "stdout is a terminal: give -o FILE" in done.stderr


def test_whole_numbers_have_an_end(tmp_path: Path) -> None:
    """What is recorded can be read again."""
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    args = ("select", tmp_path / "scores.npy", "--keep", "2", "-o", tmp_path / "keep.npy", "--seed")
    dprune(*args, 1 << 63).fails(2, "--seed", "at most 9,223,372,036,854,775,807")
    dprune(*args, (1 << 63) - 1).ok()
    assert "up to date" in dprune(*args, (1 << 63) - 1).ok().err
    dprune("pack", tmp_path, "--size", "99999999", "-o", "x").fails(2, "--size", "32,768")


def test_quiet_says_only_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    args = ("select", tmp_path / "scores.npy", "--keep", "2", "-o")
    assert "kept: 2" in dprune(*args, tmp_path / "a.npy").ok().err
    assert dprune(*args, tmp_path / "b.npy", "-q").ok().err == ""
    dprune("info", "-q", tmp_path / "missing").fails(3, "missing")


def test_twice_verbose_adds_a_traceback(tmp_path: Path) -> None:
    assert "Traceback" not in dprune("info", "-v", tmp_path / "missing").err
    result = dprune("info", "-vv", tmp_path / "missing")
    assert result.code == 3
    assert "Traceback" in result.err
    assert "error: " in result.err


@pytest.mark.parametrize(("args", "level"), [((), 0), (("-v",), 1), (("-vv",), 2), (("-q",), -1), (("-q", "-v"), -1)])
def test_verbosity_is_counted(args: tuple[str, ...], level: int, tmp_path: Path) -> None:
    dprune("info", *args, tmp_path)
    assert console.verbosity() == level


@pytest.mark.parametrize(
    ("before", "behind", "level"),
    [(("-v",), (), 1), (("-vv",), (), 2), (("-v",), ("-v",), 2), (("-v", "-v"), (), 2), (("-q",), ("-v",), -1)],
)
def test_flags_before_the_subcommand_are_counted_with_those_behind(
    before: tuple[str, ...], behind: tuple[str, ...], level: int, tmp_path: Path
) -> None:
    dprune(*before, "info", *behind, tmp_path)
    assert console.verbosity() == level
    dprune(*before, "score", *behind, "cluster-distance", tmp_path)
    assert console.verbosity() == level


def test_json_may_stand_before_the_subcommand(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32))
    behind = dprune("info", tmp_path / "x.npy", "--json").ok().out
    assert dprune("--json", "info", tmp_path / "x.npy").ok().out == behind
    assert dprune("--json", "info", tmp_path / "x.npy", "--json").ok().out == behind
    for number, words in enumerate((("--json", "score", "random"), ("score", "--json", "random"))):
        out = tmp_path / f"{number}.npy"
        assert json.loads(dprune(*words, tmp_path / "x.npy", "-o", out).ok().out)["scored"] == 8
    dprune("--json", "help", "select").fails(2, "dprune help has no --json")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("45m", 2700), ("3h50m", 13800), ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_a_tag_ends_its_key_at_the_first_equals_sign() -> None:
    assert Tag().convert("formula=a=b", None, None) == ("formula", "a=b")
    for text in ("formula", "=b", ""):
        with pytest.raises(click.BadParameter, match="KEY=VALUE"):
            Tag().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "soon", "5 m", "-3m", "3m5h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a duration"):
        Duration().convert(text, None, None)


HOSTILE = "a\x1b[31m\x1b]0;owned\x07b\x9b5mc\x7fd\u202ee\u2028f\u200bg\ufeffh[bold]i\rj\nk\udcff"
HARMLESS = "\\x1b[31m\\x1b]0;owned\\x07b\\x9b5mc\\x7fd\\u202ee\\u2028f\\u200bg\\ufeffh[bold]i\\rj\\nk\\udcff"
NAMED = "a\x1b[31mb\u202ec[red]\nd"


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.replace("\t", "").split("\n"))


def hostile_record(**more: object) -> dict[str, object]:
    return make_record(f"select {HOSTILE}", {HOSTILE: HOSTILE}, tags={HOSTILE: HOSTILE}, **more)


def hostile_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose names, kinds, keys and provenance speak to the terminal, in the current folder."""
    monkeypatch.chdir(folder)
    write_array(f"{NAMED}.npy", np.arange(3), hostile_record())
    Path(f"{NAMED}.txt").write_text("no array")
    Path("keys").write_bytes(os.fsencode(HOSTILE))
    Path("list").write_bytes(os.fsencode(f"none{HOSTILE}.tar"))
    write_tar(Path(NAMED) / f"{NAMED}.tar", sample(NAMED.replace("\n", ""), 0, 1))
    write_tar(Path("twice") / "0.tar", sample(NAMED, 0) + sample("b", 1) + sample(NAMED, 2))
    publish_json(Path("odd") / "manifest.json", {"kind": HOSTILE, "provenance": hostile_record()})
    save_file({HOSTILE.replace("\udcff", ""): np.ones(2)}, "tensors.safetensors")
    publish_json("result.json", {"kind": HOSTILE, "metrics": {HOSTILE: 1}, "provenance": hostile_record()})


@pytest.mark.parametrize(
    "args",
    [
        ("info", f"{NAMED}.npy"), ("info", f"{NAMED}.txt"), ("info", NAMED), ("info", "odd"), ("info", "twice"),
        ("info", "tensors.safetensors"), ("info", "result.json"), ("info", "@list"), ("info", f"none{NAMED}"),
        ("select", f"{NAMED}.txt", "--keep", "1", "--count"), ("select", f"{NAMED}.npy", "--only", NAMED),
        ("select", "--keep", NAMED), (NAMED,), ("info", f"--{NAMED}"), ("cluster", "x", "--metric", NAMED, "-o", "o"),
        ("cluster", "x", "--sweep", NAMED, "-o", "o"), ("select", "--tag", NAMED), ("sample", "x", NAMED),
        ("pack", NAMED, "-o", "p", "--tag", f"{NAMED}={NAMED}"), ("pack", NAMED, "-o", "p", "--subset", "keys"),
        ("pack", "twice", "-o", f"{NAMED}-out"), ("report", "result.json", "-o", "r"), ("embed", "@list", "-o", "o"),
        ("embed", f"https://user:{NAMED}@x/{NAMED}.tar", "-o", "o"), ("select", f"{NAMED}.npy", "--dry-run"),
        ("info", "-vv", f"none{NAMED}"), ("pack", "-vv", "twice", "-o", NAMED), ("embed", "-vv", "@list", "-o", "o"),
    ],
)  # fmt: skip
def test_nothing_that_is_said_commands_the_terminal(
    args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile_files(tmp_path, monkeypatch)
    result = dprune(*args)
    assert is_harmless(result.err), result.err
    assert is_harmless(result.out.decode()), result.out


@pytest.mark.parametrize("name", [f"{NAMED}.npy", "tensors.safetensors"])
def test_a_terminal_gets_colours_but_no_codes_of_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile_files(tmp_path, monkeypatch)
    shown = open_info([name]).text(100)
    assert is_harmless(re.sub(r"\x1b\[[0-9;]*m", "", shown))
    assert "[red]" in shown or "[bold]" in shown
    assert "owned\x07" not in shown


def test_messages_progress_and_data_are_presentable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.set_verbosity(0)
    console.say(HOSTILE)
    logging.getLogger("dprune").warning("%s", HOSTILE)
    console.fail(HOSTILE)
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    with console.TerminalMonitor() as monitor:
        monitor.start(HOSTILE, 2, "units")
        monitor.advance()
    said = capsys.readouterr().err
    assert said.count(HARMLESS) == 4
    assert len(said.splitlines()) == 4
    console.emit_json({HOSTILE: HOSTILE})
    data = capsys.readouterr().out
    assert is_harmless(data)
    assert json.loads(data) == {HOSTILE: HOSTILE}


def test_a_bar_shows_labels_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    bar = console._make_bar(lambda: "[bold]loss[/bold]")
    bar.console.file = screen
    bar.add_task("[red]a[/red] [link=http://x]", total=2)
    bar.console.print(bar.get_renderable())
    assert "[red]a[/red] [link=http://x]" in screen.getvalue()
    assert "[bold]loss[/bold]" in screen.getvalue()


def test_a_message_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    long = 1_000_000
    for text in ("x" * long, "x" * long + " a://b", "a://" * long, "a://b?" + ":" * long, "\x1b" * long):
        console.fail(text)
        assert len(capsys.readouterr().err) < 5000
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a.tar", "s3://bucket/a.tar"),
        ("https://u:p@ss@h.org/a.tar?X-Amz-Signature=abc&b=1: cannot", "https://h.org/a.tar?…: cannot"),
        ("('https://h/a.tar?sig=abc',)", "('https://h/a.tar?…',)"),
        ("simplecache::https://token@h/{0..9}.tar.", "simplecache::https://h/{0..9}.tar."),
        ("a@b and what? https://h/a@b.tar", "a@b and what? https://h/a@b.tar"),
    ],
)
def test_urls_are_shown_without_credentials(url: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(url)
    console.emit_json(url)
    found = capsys.readouterr()
    assert found.err == f"dprune: error: {shown}\n"
    assert json.loads(found.out) == shown


def test_text_that_the_terminal_cannot_show_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit("bad name \udcff")
    assert capsys.readouterr().out == "bad name \\udcff\n"


@pytest.mark.parametrize(
    "args", [("pack", "x"), ("embed", "x"), ("encode", "x", "--vae", "v"), ("train-vae", "x"), ("train-dit", "x"),
             ("sample", "x", "--vae", "v", "--seeds", "0")]
)  # fmt: skip
def test_folders_do_not_go_to_stdout(args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dprune(*args, "-o", "-").fails(2, "--output -", "folder")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("cluster", "x"), "File of the clusters"),
        (("eval", "x", "y"), "a .json file"),
        (("train-dit", "x"), "Run folder"),
    ],
)
def test_an_output_that_is_required(args: tuple[str, ...], kind: str) -> None:
    dprune(*args).fails(2, "Missing option '-o' / '--output'", kind)


def with_streams(redirections: str, *args: object, **options: Any) -> Result:
    """Run a subcommand whose streams a shell has redirected."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "dprune", *map(str, args)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, **options)
    return Result(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    return tmp_path / "scores.npy"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_a_failure(redirection: str, scores: Path) -> None:
    for args in (("info", scores), ("info", scores, "--json"), ("select", scores, "--keep", 3, "-o", "-")):
        with_streams(redirection, *args).fails(1, "stdout")
    with_streams(redirection, "--help").fails(1)


def test_data_is_not_written_into_the_next_file_when_streams_are_closed(scores: Path, tmp_path: Path) -> None:
    result = with_streams("<&- >&- 2>&-", "select", scores, "--keep", "3", "-o", tmp_path / "keep.npy")
    assert (result.code, result.out, result.err) == (0, b"", "")
    assert np.load(tmp_path / "keep.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_stderr_the_exit_code_still_tells(redirection: str, scores: Path, tmp_path: Path) -> None:
    assert with_streams(redirection, "select", scores, "--keep", "3", "-o", tmp_path / "keep.npy").code == 0
    assert with_streams(redirection, "select", tmp_path / "none", "--keep", "3", "-o", tmp_path / "k.npy").code == 3
    assert with_streams(redirection, "select", "--no-such-option").code == 2


@pytest.mark.parametrize("args", [("select", "-", "--keep", "3", "-o", "k.npy"), ("pack", "-", "-o", "p")])
def test_a_closed_stdin_is_bad_input(args: tuple[str, ...], tmp_path: Path) -> None:
    with_streams("<&-", *args, cwd=tmp_path).fails(3, "stdin: cannot be read")


HOMELESS = """
import pwd, sys
def nobody(uid):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = nobody
from dprune.__main__ import main
main()
"""


def test_a_user_without_a_home(shards: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "DPRUNE_CACHE", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", HOMELESS, "pack", str(shards), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["out", "shards"]
