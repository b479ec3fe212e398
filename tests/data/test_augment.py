"""Mirrored captions: directions change sides, other uses of the two words do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.data.augment import swap_left_right


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a dog on the left of a cat", "a dog on the right of a cat"),
        ("a red circle is left of a blue star", "a red circle is right of a blue star"),
        ("a ball in his right hand", "a ball in his left hand"),
        ("the leftmost girl", "the rightmost girl"),
        ("left and right", "right and left"),
        ("grass on right and black pavement", "grass on left and black pavement"),
        ("a man on the right in a hat", "a man on the left in a hat"),
        ("in the top left corner is a star", "in the top right corner is a star"),
        ("an injured right arm", "an injured left arm"),
        ("he looks right", "he looks left"),
    ],
)
def test_directions_change_sides(caption, mirrored):
    assert swap_left_right(caption.split()) == mirrored.split()
    assert swap_left_right(mirrored.split()) == caption.split()


@pytest.mark.parametrize(
    "caption",
    [
        "a baby carriage walks right behind him",
        "a girl stares right in the camera",
        "two horses are right alongside each other",
        "the boy has left",
        "toys left behind",
        "a man left the house",
        "a dog runs",
        "",
    ],
)
def test_other_words_stay(caption):
    assert swap_left_right(caption.split()) == caption.split()


@given(st.lists(st.sampled_from(["the", "a", "dog", "of", "left", "right", "hand", "and"])))
def test_no_other_word_changes(tokens):
    swapped = swap_left_right(tokens)
    assert len(swapped) == len(tokens)
    assert all(
        one == other or {one, other} == {"left", "right"}
        for one, other in zip(tokens, swapped, strict=True)
    )
