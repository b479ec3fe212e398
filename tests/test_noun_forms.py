"""Words of captions that name the same thing."""

import re
from pathlib import Path

import pytest

from captioner.noun_forms import SYNONYMS, forms_of

PAGE = Path(__file__).resolve().parents[1] / "serving" / "page" / "captioner"


@pytest.mark.parametrize(
    ("word", "same", "other"),
    [
        ("dog", ["dog", "dogs"], "cat"),
        ("bus", ["buses"], "bike"),
        ("puppy", ["puppies"], "puppet"),
        ("skis", ["ski"], "skirt"),
        ("bicycle", ["bike", "bikes", "bicycles"], "biker"),
        ("couches", ["sofa", "couch"], "chair"),
        ("plane", ["jets", "airplane"], "plain"),
    ],
)
def test_a_noun_is_named_by_its_numbers_and_synonyms(word, same, other):
    assert {word, *same} <= forms_of(word)
    assert other not in forms_of(word)
    assert all(word in forms_of(one) for one in same)


def test_the_page_knows_the_same_synonyms():
    source = (PAGE / "sure_attributes.js").read_text()
    table = re.search(r"SYNONYMS = \{(.*?)\}", source, re.DOTALL)
    assert table is not None
    assert dict(re.findall(r'(\w+): "(\w+)"', table[1])) == SYNONYMS
