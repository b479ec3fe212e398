"""Left and right in captions: swap them when a photograph is mirrored.

"Left" and "right" are swapped where they are directions. Their neighbours tell these from "right
behind him" and "has left"; the lists were made from the captions of Flickr8k.
"""

import re
from collections.abc import Mapping, Sequence

MIRRORED: Mapping[str, str] = {
    side + ending: other + ending
    for side, other in (("left", "right"), ("right", "left"))
    for ending in ("", "most", "hand", "handed", "ward", "wards")
}
_POINTS = re.compile(  # "the left", "his right hand"
    "the|an?|his|her|its|their|my|your|our|both|far|upper|lower|top|bottom|back|front|to"
)
_STRESSED = re.compile(  # "right next to", "right in the middle"
    "above|across|after|along|alongside|around|as|at|away|before|behind|below|beneath|beside|"
    "between|by|down|from|here|in|inside|into|near|next|now|off|on|onto|out|outside|over|past|"
    "there|through|towards?|under|underneath|up|when|where|while"
)
_FORSAKEN = re.compile("an?|alone|behind|her|him|his|it|its|my|our|over|the|their|them|to")
_PARTICIPLE = re.compile("has|have|having|had|is|was|were|just|gets?|being")  # "has left"


def swap_left_right(tokens: Sequence[str]) -> list[str]:
    """Return the words with directions mirrored: "a dog on the left" is then on the right."""
    return [
        MIRRORED[token] if token in MIRRORED and _is_direction(tokens, place) else token
        for place, token in enumerate(tokens)
    ]


def _is_direction(tokens: Sequence[str], place: int) -> bool:
    """Tell a direction from a stressing "right" and from the past of "leave"."""
    before = tokens[place - 1] if place else ""
    after = tokens[place + 1] if place + 1 < len(tokens) else ""
    if _POINTS.fullmatch(before) or before == "on":
        return True
    if tokens[place] == "right":
        return not _STRESSED.fullmatch(after)
    if tokens[place] == "left":
        is_past = _PARTICIPLE.fullmatch(before) and after != "of"
        return not (is_past or _FORSAKEN.fullmatch(after))
    return True
