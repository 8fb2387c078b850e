"""Brace expressions: what they stand for is that of the package that WebDataset uses, and it is counted first."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dprune.formats.braces import DEEPEST, parse

braceexpand = pytest.importorskip("braceexpand").braceexpand

NONSENSE = st.lists(st.sampled_from(["{", "}", ",", "..", "1", "0", "-", "a", "\\", "{1..3}", "{a,b}"]), max_size=10)
SOUND = ["a", "{a,b}", "{1..3}x{a..c}", "{07..10}", "{10..1..3}", "{-3..03}", "{g..a..2}", "x{a,{1..3},}y", "{a}", "{}",
         "{x{1,2}}", "a\\{b,c\\}", "{a\\,b,c}", "{1..3..0}", "{c..A}", "{,}", "{-0..3}", "{1..a}", "x\\"]  # fmt: skip


@pytest.mark.parametrize("text", SOUND)
def test_words_are_those_of_webdataset(text: str) -> None:
    assert list(parse(text)) == list(braceexpand(text))


@given(NONSENSE.map("".join))
@example("{a,b")
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_as_webdataset_reads_it_or_refused(text: str) -> None:
    # Inside braces that hold no choice the package takes escapes away twice, as no shell does.
    assume("\\\\" not in text)
    try:
        expected = list(braceexpand(text))
        found = parse(text)
    except (ValueError, IndexError):
        # The package takes `}{` for balanced, and is not asked.
        return
    assert list(found) == expected
    assert found.count == len(expected)


def test_counting_takes_no_time() -> None:
    begun = time.monotonic()
    assert parse("{1..999999999}").count == 999_999_999
    assert parse("{0..9}" * 4000).count == 10**4000
    assert parse("{{0..9}{0..9},{a..z}}" * 20).count == 126**20
    for text in ("{" * 100_000, "{a," * (DEEPEST + 1) + "}" * (DEEPEST + 1)):
        with pytest.raises(ValueError, match="nested more than"):
            parse(text)
    assert time.monotonic() - begun < 1
