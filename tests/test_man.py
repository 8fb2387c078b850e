"""The man pages: generated, complete, sound roff, and installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dprune.cli import STAGES, cli
from dprune.shell.help_pages import GroupedOption

MAN = Path(__file__).parent.parent / "man"
NAMES = [name for stage in STAGES.values() for name in stage]
OWN = {
    "pack": ["SOURCES", "LABELS"],
    "embed": ["DECODING"],
    "status": ["PIECES"],
    # What varies in each error.
    **{name: ["STANDARD ERRORS"] for name in ("memorization", "score")},
    "report": ["NAMES OF LINES", "THE PAGE IN WORDS", "STANDARD ERRORS"],
    "eval": ["STATISTICS", "PAIRS", "STANDARD ERRORS"],
}
"""Sections that the pages of some commands have."""
PAGES = ["dprune.1", *(f"dprune-{name}.1" for name in NAMES), "dprune-files.7"]


def headings(page: str) -> list[str]:
    return re.findall(r"^\.SH (.+)$", (MAN / page).read_text(), flags=re.MULTILINE)


def test_pages_are_what_the_generator_writes() -> None:
    check = [sys.executable, str(MAN / "build.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_names_stale_pages(tmp_path: Path) -> None:
    shutil.copytree(MAN, tmp_path / "man", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(MAN.parent / "pyproject.toml", tmp_path)
    with (tmp_path / "man/dprune-info.1").open("a") as file:
        file.write("more\n")
    (tmp_path / "man/dprune-gone.1").write_text("old\n")
    build = [sys.executable, str(tmp_path / "man/build.py")]
    done = subprocess.run([*build, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["man/dprune-gone.1", "man/dprune-info.1"]
    subprocess.run(build, check=True)
    assert subprocess.run([*build, "--check"], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_all_sections_in_order(name: str) -> None:
    wanted = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXAMPLES",
        *OWN.get(name, ()),
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "SEE ALSO",
    ]
    assert headings(f"dprune-{name}.1") == wanted


def test_the_overview_lists_all_commands() -> None:
    text = (MAN / "dprune.1").read_text()
    assert headings("dprune.1")[3:5] == ["COMMANDS", "OPTIONS"]
    for name in NAMES:
        assert rf"\fBdprune\-{name}\fR(1)".replace("train-", r"train\-") in text


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_every_option_in_its_group(name: str) -> None:
    text = (MAN / f"dprune-{name}.1").read_text().replace(r"\-", "-")
    command = cli.get_command(click.Context(cli, info_name="dprune"), name)
    assert command is not None
    members = command.commands.values() if isinstance(command, click.Group) else [command]
    shown = text.partition(".SH OPTIONS")[2].partition(".SH EXAMPLES")[0]
    for param in (param for member in members for param in member.params):
        if isinstance(param, GroupedOption):
            heading = r".PP\n\\fI{}\\fR" if len(members) > 1 else r"\.SS {}"
            names = ", ".join(rf"\fB{option}\fR" for option in (*param.opts, *param.secondary_opts))
            assert re.search(rf"{heading.format(param.group)}\n(?!\.S|\.PP)(.*\n)*?{re.escape(names)}", shown)


@pytest.mark.parametrize("name", NAMES)
def test_variables_are_told_of_once(name: str) -> None:
    text = (MAN / f"dprune-{name}.1").read_text()
    assert text.count("DPRUNE_<COMMAND>_<OPTION>") == 1
    assert "Environment:" not in text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_ascii_without_marks_of_click(page: str) -> None:
    text = (MAN / page).read_text()
    assert text.isascii()
    assert "\b" not in text
    assert r"\eb" not in text
    assert "<<<<" not in text, "what a merge left"
    # A request is one of these; anything else is text that roff would swallow.
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests <= {
        r".\"",
        ".TH",
        ".SH",
        ".SS",
        ".PP",
        ".TP",
        ".HP",
        ".RS",
        ".RE",
        ".nf",
        ".fi",
        ".ad",
        ".nh",
        ".ss",
    }


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_groff_has_nothing_to_warn_of(page: str) -> None:
    done = subprocess.run(["groff", "-ww", "-man", "-z", MAN / page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_text_comes_out_as_it_was_written() -> None:
    script = "from roff import blocks; print('\\n'.join(['.TH X 1', '.SH A', *blocks(open(0).read())]))"
    text = "Say `a\\b` -- or\n'quoted'.\n\n  .dot 'x' \\n ~ ^ ` -o é\n\n.begins\n: with a dot\n"
    page = subprocess.run(
        [sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True, cwd=MAN
    )
    groff = ["groff", "-ww", "-man", "-Tutf8", "-P-c"]
    done = subprocess.run(groff, input=page.stdout, capture_output=True, text=True, check=True)
    shown = re.sub(r".\x08", "", done.stdout)
    assert done.stderr == ""
    assert re.search(r"Say a\\b -- or .quoted.\.", shown)
    assert ".dot 'x' \\n ~ ^ ` -o é" in shown
    assert ".begins" in shown
