"""Which words of a vocabulary captions may hold twice."""

from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from training.caption_figures import FUNCTION_WORDS
from training.content_words import GRAMMAR, with_content_words_once


def test_names_of_things_and_of_their_look_come_once() -> None:
    words = ("a", "dog", "white", "next", "to", "two", "runs", "is")
    vocabulary = with_content_words_once(Vocabulary((*SPECIAL_TOKENS, *words)))
    assert vocabulary.repeatable == {"a", "next", "to", "two", "is"}
    assert vocabulary.words[len(SPECIAL_TOKENS) :] == words


def test_words_that_end_no_caption_are_grammar() -> None:
    assert FUNCTION_WORDS <= GRAMMAR
