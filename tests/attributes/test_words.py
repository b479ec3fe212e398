"""The table of ImageNet's classes, and nouns of captions."""

import pytest

from captioner.attributes.imagenet import CLASSES, candidate_words, words_of_classes
from captioner.attributes.nouns import attribute_of, attributes_in


def test_the_table_has_a_line_for_every_class():
    assert len(candidate_words()) == CLASSES
    assert sum(map(bool, candidate_words())) > 800


@pytest.mark.parametrize(
    ("number", "word"),
    [(340, "zebra"), (963, "pizza"), (285, "cat"), (235, "dog"), (919, "sign"), (705, "train")],
)
def test_well_known_classes_have_the_word_of_captions(number, word):
    assert candidate_words()[number][0] == word


@pytest.mark.parametrize(
    ("number", "word"),
    [(264, "dog"), (474, "sweater"), (134, "bird"), (517, "crane"), (21, "bird"), (291, "animal")],
)
def test_names_with_two_senses_have_the_word_of_what_is_seen(number, word):
    """Cardigans are dogs and sweaters, cranes birds and machines; a kite here is a bird."""
    assert candidate_words()[number][0] == word


def test_a_word_that_the_vocabulary_lacks_gives_way_to_a_more_general_one():
    assert words_of_classes({"zebra", "animal"})[340] == "zebra"
    assert words_of_classes({"animal"})[340] == "animal"
    assert words_of_classes({"pizza"})[340] is None


@pytest.mark.parametrize(
    ("word", "attribute"),
    [
        ("zebra", "zebra"),
        ("zebras", "zebra"),
        ("buses", "bus"),
        ("puppies", "puppy"),
        ("women", "woman"),
        ("glass", "glass"),
        ("grass", None),
        ("the", None),
    ],
)
def test_a_plural_names_the_attribute_of_the_singular(word, attribute):
    known = {"zebra", "bus", "puppy", "woman", "glass", "gras"}
    assert attribute_of(word, known) == attribute


def test_attributes_of_a_caption_are_named_once():
    words = ["a", "dog", "and", "two", "dogs", "near", "a", "bus"]
    assert attributes_in(words, {"dog", "bus", "cat"}) == ["dog", "bus"]
