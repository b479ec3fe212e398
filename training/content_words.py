"""Words that captions may hold twice: those of grammar, and no name of a thing or of its look.

A captioner that knows too few words says "a white and white cat" or "a bus next to a bus". People
hardly write so (a colour comes twice in 4 % of the captions that hold it), and search is better
without it: measured in docs/results/photographs.md.
"""

from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

_GRAMMAR = """
a an the this that these those some any each every no all both few many several other another
one two three four five six seven eight nine ten
i you he she it we they him her them his hers its their theirs my your our himself herself itself
themselves who whom whose which what there
about above across after against along alongside amid among amongst around as at away back before
behind below beneath beside between by down during for from in inside into near next of off on onto
out outside over past through to together toward towards under underneath up upon with within
without front side top bottom left right end middle
and or but nor so while when where if because than then as like not
is are was were be been being am has have had having do does doing done can could may might will
would
"""
GRAMMAR = frozenset(_GRAMMAR.split())


def with_content_words_once(vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary, its words of English grammar marked as those that may come twice."""
    words = vocabulary.words[len(SPECIAL_TOKENS) :]
    return Vocabulary(vocabulary.words, repeatable=[word for word in words if word in GRAMMAR])
