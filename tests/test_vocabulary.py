"""The vocabulary and the rule that cuts captions into words."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.errors import DataError, OptionError
from captioner.vocabulary import (
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    UNKNOWN,
    Vocabulary,
    tokenize,
)

CAPTIONS = [["a", "dog", "runs"], ["a", "dog", "and", "a", "cat"], ["a", "cat", "runs"]]


def test_words_stand_by_count_then_alphabet_after_the_special_tokens():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words == (*SPECIAL_TOKENS, "a", "cat", "dog", "runs")
    assert (PAD, START, END, UNKNOWN) == (0, 1, 2, 3)


def test_order_of_the_captions_does_not_matter():
    assert Vocabulary.build(CAPTIONS, 1) == Vocabulary.build(reversed(CAPTIONS), 1)


def test_a_special_token_in_a_caption_is_no_word():
    vocabulary = Vocabulary.build([["a", "<unk>", "<end>"]], min_count=1)
    assert vocabulary.words == (*SPECIAL_TOKENS, "a")


def test_unknown_words_encode_to_unknown_and_decode_to_nothing():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    ids = vocabulary.encode(["a", "zebra", "runs"])
    assert ids == [4, UNKNOWN, 7]
    assert vocabulary.decode([START, *ids, END, 4, 4]) == ["a", "runs"]


@given(st.lists(st.lists(st.text("abcdé", min_size=1, max_size=3)), min_size=1))
def test_decode_undoes_encode_when_every_word_is_known(captions):
    if not any(captions):
        return
    vocabulary = Vocabulary.build(captions, min_count=1)
    for tokens in captions:
        assert vocabulary.decode(vocabulary.encode(tokens)) == list(tokens)


def test_words_that_may_come_twice_are_saved_with_it(tmp_path: Path) -> None:
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "dog", "and"), repeatable=["and", "a"])
    vocabulary.save(tmp_path / "vocabulary.json")
    found = Vocabulary.load(tmp_path / "vocabulary.json")
    assert found.repeatable == {"a", "and"}
    assert found.is_once is not None
    assert found.is_once.tolist() == [False] * 5 + [True, False]
    assert "repeatable" not in Vocabulary(vocabulary.words).to_json()
    with pytest.raises(DataError, match="'cat' may come twice in a caption and is not among"):
        Vocabulary(vocabulary.words, repeatable=["cat"])


@pytest.mark.parametrize("word_id", [-1, 8])
def test_an_id_of_another_vocabulary_is_refused(word_id):
    with pytest.raises(DataError, match=f"word id {word_id} is not in this vocabulary of 8 words"):
        Vocabulary.build(CAPTIONS, min_count=2).decode([word_id])


def test_coverage_counts_tokens():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.coverage([["a", "zebra"], ["and", "cat"]]) == 0.5
    assert vocabulary.coverage([]) == 1.0


def test_saved_vocabulary_loads_equal(tmp_path):
    vocabulary = Vocabulary.build([["häuser", "a", "a"]], min_count=1)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    assert "häuser" in (tmp_path / "vocabulary.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", 'an object with a list "words"'),
        ('{"format": 9, "words": []}', "format 9, this program reads 1"),
        ('{"format": 1, "words": ["a"]}', "begins with <pad> <start> <end> <unk>, this one with a"),
        (json.dumps({"format": 1, "words": [*SPECIAL_TOKENS, "a", "a"]}), "holds 'a' twice"),
        (json.dumps({"format": 1, "words": [*SPECIAL_TOKENS, "a b"]}), "holds 'a b'"),
        (json.dumps({"format": 1, "words": [*SPECIAL_TOKENS, 7]}), "holds 7"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(tmp_path, content, message):
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_min_count_must_leave_words():
    with pytest.raises(OptionError, match="min_count is 0"):
        Vocabulary.build(CAPTIONS, min_count=0)
    with pytest.raises(DataError, match="occurs 9 times; lower --min-count"):
        Vocabulary.build(CAPTIONS, min_count=9)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A black dog is running .", "a black dog is running"),
        ("A T-shirt, worn by a man's friend!", "a t shirt worn by a mans friend"),
        ('"Number #5" (left) & 2=2', "number #5 (left) & 2=2"),
        ("50% off; $3.50 a/b _x_ ~y~", "50 off 350 ab x y"),
        ("Two – or three — “dogs”…", "two or three dogs"),
        ("tabs\tand\nlines", "tabs and lines"),
        (" .,!? ", ""),
    ],
)
def test_tokens_of_a_caption(text, tokens):
    assert tokenize(text) == tokens.split()


def test_tokens_equal_those_of_the_flickr8k_file(shared_data: Path):
    content = json.loads((shared_data / "data" / "flickr8k" / "dataset_flickr8k.json").read_text())
    sentences = [sentence for image in content["images"] for sentence in image["sentences"]]
    assert len(sentences) == 35_000
    assert [s["raw"] for s in sentences if tokenize(s["raw"]) != s["tokens"]] == []
