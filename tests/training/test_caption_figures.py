"""Figures that show what a score overlooks."""

import pytest

from training.caption_figures import caption_figures, figures_line


def test_captions_that_break_off_are_counted() -> None:
    captions = [
        ["a", "man", "in", "a"],
        ["a", "dog", "runs"],
        [],
        ["a", "boy", "with", "a", "hat", "on"],
    ]
    figures = caption_figures(captions)
    assert figures == {
        "caption_length": pytest.approx(13 / 4),
        "words_used": 9.0,
        "unfinished": 0.5,
    }
    assert figures_line(figures) == "3.2 words a caption, 9 different, 50.0% unfinished"


def test_no_captions_have_figures_too() -> None:
    assert caption_figures([]) == {"caption_length": 0, "words_used": 0, "unfinished": 0}
