"""What a user of the library gets: captions as objects, from any kind of image."""

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import captioner
from captioner.captioner import DEFAULTS, Caption, Captioner
from captioner.confidence import ConfidenceCurve
from captioner.decoders import build_decoder, decoder_options
from captioner.encoder.preprocessing import Preprocessing
from captioner.engines.torch_engine import TorchEngine
from captioner.errors import CaptionerError, ImageError, OptionError
from captioner.features import Features
from captioner.search_config import SearchConfig
from captioner.vocabulary import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, Vocabulary

WORDS = ("a", "dog", "cat", "runs", "sits", "on", "grass", "red")
GRID = 2


class ColourEncoder(nn.Module):
    """The colours of a grid of patches as features, instead of a network."""

    grid = GRID
    feature_size = 3
    preprocessing = Preprocessing(image_size=32)

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def encode(self, pixels: list[np.ndarray]) -> Features:
        self.batches.append(len(pixels))
        assert all(image.shape == (32, 32, 3) for image in pixels)
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
        return Features(nn.functional.adaptive_avg_pool2d(stack, GRID).flatten(2).mT / 64 - 2)


def a_captioner(decoder: str = "soft_attention", attributes: int = 0) -> Captioner:
    sizes = {"hidden_size": 12, "embedding_size": 8, "attention_size": 6}
    if attributes:
        sizes |= {"attributes": attributes}
    built = build_decoder(
        decoder,
        decoder_options(decoder, sizes),
        vocabulary_size=len(SPECIAL_TOKENS) + len(WORDS),
        feature_size=3,
        generator=torch.Generator().manual_seed(1),
    )
    if attributes:
        generator = torch.Generator().manual_seed(2)
        weight = 3 * torch.randn(len(WORDS), 3, generator=generator)
        ids = range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(WORDS))
        built.attribute_detector.take(weight, torch.zeros(len(WORDS)), ids)
    with torch.no_grad():
        built.output.weight.mul_(30)
    return Captioner(TorchEngine(ColourEncoder(), built), Vocabulary((*SPECIAL_TOKENS, *WORDS)))


def test_a_caption_holds_text_tokens_probabilities_and_attention(photographs: list[Path]):
    for caption in a_captioner().caption(photographs, max_length=6):
        assert caption.text == " ".join(caption.tokens)
        assert set(caption.tokens) <= set(WORDS)
        assert 1 <= len(caption.tokens) <= 6
        assert caption.probability == pytest.approx(math.exp(caption.log_prob))
        tokens = min(len(caption.tokens) + 1, 6)  # the end counts, unless the caption was cut
        assert caption.score == pytest.approx(caption.log_prob / tokens**DEFAULTS.length_power)
        assert caption.attention.shape == (len(caption.tokens), GRID, GRID)
        assert caption.attention.sum((1, 2)) == pytest.approx(1.0, abs=1e-5)


def test_a_caption_s_probability_is_that_of_its_words_and_its_end(photographs: list[Path]):
    ends = set()
    model = a_captioner()
    with torch.no_grad():
        model.engine.decoder.output.bias[END] += 6
    for longest in (1, 2, 9):
        for caption in model.caption(photographs, max_length=longest):
            each = [*caption.word_probabilities]
            assert len(each) == len(caption.tokens)
            assert (caption.end_probability is None) == (len(caption.tokens) == longest)
            each += [] if caption.end_probability is None else [caption.end_probability]
            assert math.prod(each) == pytest.approx(caption.probability)
            assert sum(caption.token_log_probs) == pytest.approx(caption.log_prob)
            ends.add(caption.end_probability is None)
    assert ends == {True, False}


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("soft_attention", 0), ("soft_attention", 3), ("adaptive_attention", 0)],
)
def test_word_probabilities_and_attention_are_those_of_a_plain_greedy_loop(
    name: str, attributes: int
):
    model = a_captioner(name, attributes=attributes)
    decoder = model.engine.decoder
    pixels = [np.full((32, 32, 3), shade, np.uint8) for shade in (20, 200)]
    found = model.captions_of_pixels(pixels, SearchConfig(beam_size=1, max_length=5))
    for image, [caption] in zip(pixels, found, strict=True):
        features = model.features_of_pixels([image])
        memory = decoder.prepare(features)
        state, word, place = decoder.start(memory), START, 0
        while word != END and place < 5:
            logits, state, attention = decoder.step(torch.tensor([[word]]), state, memory)
            chances = logits[0, 0].detach().softmax(0)
            allowed = [one for one in range(len(chances)) if one not in (PAD, START, UNKNOWN)]
            word = max(
                (one for one in allowed if place or one != END), key=lambda one: chances[one]
            )
            if word == END:
                assert caption.end_probability == pytest.approx(float(chances[END]), rel=1e-4)
                break
            assert caption.tokens[place] == model.vocabulary.words[word]
            assert caption.word_probabilities[place] == pytest.approx(
                float(chances[word]), rel=1e-4
            )
            looked = attention[0, 0].detach().numpy()
            on_image = looked[: GRID**2] / looked[: GRID**2].sum()
            np.testing.assert_allclose(caption.attention[place].ravel(), on_image, atol=1e-6)
            if attributes:
                on_attributes = caption.attribute_attention[place]
                np.testing.assert_allclose(on_attributes, looked[GRID**2 :], atol=1e-6)
            for number, share in enumerate(decoder.share_names):
                weight = looked[GRID**2 + attributes + number]
                assert caption.shares[share][place] == pytest.approx(float(weight), abs=1e-6)
            place += 1
        assert len(caption.tokens) == place
        assert tuple(caption.shares) == decoder.share_names
        assert (caption.attribute_attention is None) == (not attributes)
        scores = decoder.attribute_detector(features.grid)[0].tolist() if attributes else []
        named = sorted(zip(scores, WORDS, strict=False), reverse=True)[:attributes]
        assert [one.word for one in caption.attributes] == [word for _, word in named]
        assert [one.probability for one in caption.attributes] == pytest.approx(
            [score for score, _ in named]
        )


def test_confidence_is_that_of_the_curve_or_not_there(photographs: list[Path]):
    model = a_captioner()
    assert model.caption(photographs[:1])[0].confidence is None
    model.confidence_curve = ConfidenceCurve(weights=(0.5, 0.25), bias=2.0)
    for caption in model.caption(photographs):
        each = caption.token_log_probs
        logit = 2 + 0.5 * caption.log_prob + 0.25 * len(each)
        assert caption.confidence == pytest.approx(1 / (1 + math.exp(-logit)))


def test_a_decoder_that_sees_the_image_once_has_no_attention(photographs: list[Path]):
    (caption,) = a_captioner("show_tell").caption(photographs[:1])
    assert caption.attention is None


def test_paths_strings_bytes_files_and_open_images_are_the_same_image(photographs: list[Path]):
    path = photographs[0]
    with Image.open(path) as image, path.open("rb") as file:
        given = [path, str(path), path.read_bytes(), image, file]
        captions = a_captioner().caption(given)
    assert len({caption.text for caption in captions}) == 1


def test_a_photograph_is_turned_upright_first():
    image = Image.new("RGB", (40, 20), "navy")
    image.paste((255, 200, 0), (0, 0, 20, 20))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    model = a_captioner()
    upright, from_exif = model.caption([image, turned.getvalue()])
    assert upright.text == from_exif.text
    assert upright.log_prob == pytest.approx(from_exif.log_prob)


def test_images_are_taken_in_batches_and_keep_their_order(photographs: list[Path]):
    model = a_captioner()
    together = model.caption(photographs, batch_size=3)
    assert model.engine.encoder.batches == [3, 1]
    for path, caption in zip(photographs, together, strict=True):
        (alone,) = model.caption([path])
        assert caption.text == alone.text
        assert caption.log_prob == pytest.approx(alone.log_prob, rel=1e-5)


def test_the_best_captions_come_first_and_all_differ(photographs: list[Path]):
    model = a_captioner()
    for captions in model.captions(photographs, num_captions=5):
        assert len({caption.text for caption in captions}) == 5
        scores = [caption.score for caption in captions]
        assert scores == sorted(scores, reverse=True)
    best = [captions[0].text for captions in model.captions(photographs, num_captions=2)]
    assert best == [caption.text for caption in model.caption(photographs)]


def test_no_images_give_no_captions():
    assert a_captioner().caption([]) == []


def test_a_broken_image_is_an_error_that_names_it(tmp_path: Path, photographs: list[Path]):
    broken = tmp_path / "half.jpg"
    broken.write_bytes(photographs[0].read_bytes()[:300])
    with pytest.raises(ImageError, match=r"half\.jpg"):
        a_captioner().caption([photographs[1], broken])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5; a batch holds at least 1 image"),
        ({"batch_size": "2"}, "batch_size is '2'; a batch holds at least 1 image"),
        ({"num_captions": "3"}, "num_captions is '3'; it must be a int"),
        ({"diverse_groups": "3"}, "diverse_groups is '3'; it must be a int"),
        ({"include": [5]}, r"include is \[5\]; give a list of words"),
        ({"include": None}, "include is None; give a list of words"),
        ({"exclude": "dog"}, "exclude is 'dog'; give a list of words"),
        ({"include": [" , "]}, "which holds no word; give one or leave it out"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_size": 2, "num_captions": 3}, "num_captions is 3 and beam_size 2"),
        ({"max_length": 0}, "max_length is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(OptionError, match=message):
        a_captioner().captions([], **{"num_captions": 1, **options})


@pytest.mark.parametrize("single", ["dog.jpg", Path("dog.jpg"), b"...", Image.new("RGB", (9, 9))])
def test_a_single_image_instead_of_a_list_is_refused(single: object):
    with pytest.raises(OptionError, match="give a list"):
        a_captioner().caption(single)


@pytest.mark.parametrize("images", [None, 5])
def test_what_holds_no_images_is_refused(images: Any):
    with pytest.raises(OptionError, match=f"images is {images}; give a list"):
        a_captioner().caption(images)


@pytest.mark.parametrize("image", [None, np.zeros((9, 9, 3), np.uint8)])
def test_what_is_no_image_is_refused_with_what_is_taken(image: Any):
    with pytest.raises(ImageError, match=r"an image is of type .*; give a path, an open PIL image"):
        a_captioner().caption([image])


@pytest.mark.parametrize("threads", ["2", 2.0, True, 0])
def test_threads_are_a_whole_number(tmp_path: Path, threads: Any):
    with pytest.raises(OptionError, match=f"threads is {threads!r}; give a whole number"):
        captioner.load(tmp_path, threads=threads)


@pytest.mark.parametrize("options", [{}, {"sample": True}, {"diverse_groups": 3}], ids=str)
def test_words_that_leave_no_caption_are_named(photographs: list[Path], options: dict[str, Any]):
    model = a_captioner()
    words = [*model.vocabulary.words[4:]]
    with pytest.raises(CaptionerError, match=f"exclude holds {len(words)} words, .*exclude fewer"):
        model.caption(photographs[:1], exclude=words, **options)


def test_draws_need_no_beam(photographs: list[Path]):
    model = a_captioner()
    (wide,) = model.captions(photographs[:1], num_captions=5, sample=True, seed=1)
    (narrow,) = model.captions(photographs[:1], num_captions=5, beam_size=3, sample=True, seed=1)
    assert [one.text for one in narrow] == [one.text for one in wide]
    assert len(narrow) == 5


def test_an_unknown_device_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(OptionError, match="'abacus', which this machine cannot use"):
        captioner.load(tmp_path, device="abacus")


def test_the_package_offers_its_api_and_nothing_heavy_before_it_is_used():
    assert captioner.Captioner is Captioner
    assert captioner.Caption is Caption
    assert {"load", "Caption", "Captioner", "__version__"} <= set(dir(captioner))
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        _ = captioner.lead
    code = (
        "import sys, captioner, captioner.cli; print(sorted({'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_captions_hold_what_is_asked_for_and_nothing_else(photographs: list[Path]):
    model = a_captioner()
    for caption in model.caption(photographs, include=["Cat", "red"], exclude=["dog"]):
        assert {"cat", "red"} <= set(caption.tokens)
        assert "dog" not in caption.tokens
        assert caption.attention.shape == (len(caption.tokens), GRID, GRID)
    for caption in model.caption(photographs, no_repeat_ngram=1, max_length=8):
        assert len(set(caption.tokens)) == len(caption.tokens)
    for captions in model.captions(photographs, num_captions=3, diverse_groups=3, diversity=99):
        assert len({caption.tokens[0] for caption in captions}) == 3
    drawn = model.captions(photographs, num_captions=4, sample=True, temperature=2.0, seed=5)
    again = model.captions(photographs, num_captions=4, sample=True, temperature=2.0, seed=5)
    assert [[one.text for one in own] for own in drawn] == [
        [one.text for one in own] for own in again
    ]
    with pytest.raises(OptionError, match="'zebra', which is not among the 12 words"):
        model.caption(photographs, include=["zebra"])
