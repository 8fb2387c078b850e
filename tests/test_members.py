"""Members of samples: which is the image, which the label, and what they are called once they are packed."""

from __future__ import annotations

import pytest

from dprune.errors import InputError, UsageError
from dprune.formats.members import MemberChoice, with_image

JPG, PNG = b"\xff\xd8\xff1", b"\x89PNG\r\n\x1a\n2"


def test_the_image_is_the_first_kind_or_the_one_that_was_chosen() -> None:
    assert MemberChoice().image_of(["cls", "png", "jpg", "input.png"]) == "jpg"
    assert MemberChoice("Input.PNG").image_of(["cls", "png", "jpg", "input.png"]) == "input.png"
    assert MemberChoice().image_of(["input.png"]) is None
    assert MemberChoice("input.png").image_of(["png"]) is None


def test_only_what_was_chosen_is_recorded() -> None:
    assert MemberChoice().options() == {}
    chosen = MemberChoice("Input.png", "json:Label").options()
    assert chosen == {"image_member": "input.png", "label_member": "json:Label"}
    assert MemberChoice(label_member="y").options() == {"label_member": "y"}


@pytest.mark.parametrize("chosen", [("",), (".png",), ("a/b.png",), (None, ""), (None, ":label"), (None, "json:")])
def test_what_no_member_can_be_called(chosen: tuple[str | None, ...]) -> None:
    with pytest.raises(UsageError, match=r"(image|label)-member"):
        MemberChoice(*chosen)


@pytest.mark.parametrize(
    ("chosen", "content", "label"),
    [
        (None, b" 7\n", 7), ("y", b"-1", -1), ("json:label", b'{"label": 3}', 3), ("json:label", b'{"label": "3"}', 3),
        ("json:a.b", b'{"a.b": 4}', 4), ("json:label", b'{"label": null}', -1),
    ],
)  # fmt: skip
def test_labels(chosen: str | None, content: bytes, label: int) -> None:
    assert MemberChoice(None, chosen).label("x", content) == label


@pytest.mark.parametrize(
    ("chosen", "content", "words"),
    [
        (None, b"cat", "x holds b'cat', not a whole number"),
        (None, b"1_0", "not a whole number"),
        (None, b"9" * 30, "not a whole number of 64 bits"),
        ("json:label", b'{"label": "cat"}', "x holds 'cat', not a whole number"),
        ("json:label", b'{"label": 1.5}', "not a whole number"),
        ("json:label", b'{"label": true}', "not a whole number"),
        ("json:label", b'{"label": [1]}', "not a whole number"),
        ("json:label", b'{"text": 1}', "x: has no field 'label'"),
        ("json:label", b"[1]", "x: has no field 'label'"),
        ("json:label", b"{", "x: is not valid JSON"),
    ],
)
def test_labels_that_are_none(chosen: str | None, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MemberChoice(None, chosen).label("x", content)


def test_what_was_chosen_is_renamed_and_what_would_be_taken_instead_makes_way() -> None:
    members = [("jpg", JPG), ("input.png", PNG), ("cls", b"9"), ("json", b'{"label": 3}')]
    assert MemberChoice().standard("s", members) == (members, 0)
    chosen = MemberChoice("input.png", "json:label").standard("s", members)
    assert chosen == (
        [("other.jpg", JPG), ("png", PNG), ("other.cls", b"9"), ("json", b'{"label": 3}'), ("cls", b"3")], 1,
    )  # fmt: skip
    assert MemberChoice("gif").standard("s", members) is None


def test_a_label_text_is_replaced_and_an_image_called_otherwise_is_known_by_its_beginning() -> None:
    chosen = MemberChoice("x.img", "y.txt").standard("s", [("y.txt", b"4\n"), ("x.img", JPG)])
    assert chosen == ([("jpg", JPG), ("cls", b"4")], 0)


def test_an_image_that_is_written_anew_is_the_one_that_is_read() -> None:
    members = [("jpg", b"1"), ("png", b"2"), ("cls", b"3")]
    assert with_image(members, 0, "png", b"4") == [("png", b"4"), ("other.png", b"2"), ("cls", b"3")]
    assert with_image(members, 0, "webp", b"4") == [("webp", b"4"), ("other.png", b"2"), ("cls", b"3")]
    assert with_image(members, 0, "jpg", b"4") == [("jpg", b"4"), ("png", b"2"), ("cls", b"3")]
