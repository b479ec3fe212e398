import random
from pathlib import Path
from typing import Any

import pytest

from captioner.errors import ToolError
from captioner.metrics.java import find_java, java_environment
from captioner.metrics.tokenizer import Tokenizer

HARD = [
    'The "Dog" (a big one) isn\'t here, etc.',
    "A man's 3.50 dollar hot-dog -- in the U.S.",
    "He weighs 5 1/2 lbs.",
    "Café naïve 狗 ʻokina",
    "<unk> a dog <b>runs</b> & barks; 50% off!",
    "",
    "can't won't gonna cannot",
    "...",
    "A bat.",
    "a bat. .",
]


def test_tokens_of_the_published_candidates_are_the_published_ones(
    raw_candidates: dict[str, str], candidates: dict[str, str]
) -> None:
    got = Tokenizer().tokenize(list(raw_candidates.values()))
    assert len(got) == 1000
    assert dict(zip(raw_candidates, got, strict=True)) == candidates


def test_hard_captions_are_cut_as_pycocoevalcap_cuts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    monkeypatch.setenv("PATH", java_environment(find_java())["PATH"])
    expected = PTBTokenizer().tokenize({0: [{"caption": caption} for caption in HARD]})[0]
    monkeypatch.setenv("LC_ALL", "C")  # the child's locale is not the parent's
    assert Tokenizer().tokenize(HARD) == expected


def test_captions_keep_their_places_whatever_lies_between_them() -> None:
    generator = random.Random(0)
    pieces = [*".!?,:;-\"'()<>&%#@|\\/ \t\n\r\x0b\x0c\x1c\x85\u2028\u2029\u00a0\x00", "😀", "狗"]
    pieces += ["dog", "U.S.", "e.g.", "...", "--", "1/2", "http://a.b/c", "\ud800"]
    odd = ["".join(generator.choices(pieces, k=generator.randrange(8))) for _ in range(1500)]
    captions = [
        text for pair in zip(odd, map("word{}".format, range(1500)), strict=True) for text in pair
    ]
    captions += ["", ".", ""]
    tokenizer = Tokenizer()
    got = tokenizer.tokenize(captions)
    assert got[1:3000:2] == captions[1:3000:2]
    assert got[3000:] == ["", "", ""]
    assert not any("\n" in tokens for tokens in got)
    assert (tokenizer.starts, tokenizer.lines) == (1, 3003)


def test_nothing_to_do_starts_nothing() -> None:
    tokenizer = Tokenizer(java=Path("/nowhere"))
    assert tokenizer.tokenize([]) == []
    assert tokenizer.starts == 0


def test_a_wrong_number_of_lines_is_an_error(fake_java: Any) -> None:
    java = fake_java("print('a dog')")
    with pytest.raises(ToolError, match="returned 2 lines for 3 captions"):
        Tokenizer(java=java).tokenize(["a", "b", "c"])


def test_a_slow_tokeniser_is_ended(fake_java: Any) -> None:
    java = fake_java("import time; time.sleep(600)")
    with pytest.raises(ToolError, match=r"the tokeniser did not finish within 0\.3 s"):
        Tokenizer(java=java, timeout_seconds=0.3).tokenize(["a"])
