"""Self-critical training follows the gradient of the expected reward, which is enumerated here."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.decoders import CaptionBatch, Decoder, build_decoder
from captioner.decoders.soft_attention import SoftAttentionOptions
from captioner.features import Features
from captioner.files import file_hash
from captioner.vocabulary import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, Vocabulary
from training.objectives import self_critical
from training.objectives.interface import DecoderPass, ObjectiveBatch
from training.objectives.sampled_captions import SampledCaptions, sample_captions
from training.objectives.self_critical import SelfCritical, SelfCriticalOptions
from training.run_folder import RunFolder, read_metrics

TrainHere = Callable[..., int]
A, B = 4, 5  # the words besides the special tokens
LONGEST = 2
CAPTIONS = [(A, END), (B, END), (A, A), (A, B), (B, A), (B, B)]  # all that can be drawn
REFERENCES = [[["a", "b"], ["a"], ["b", "b", "c"]], [["b"]]]
VOCABULARY = Vocabulary((*SPECIAL_TOKENS, "a", "b"))


@pytest.fixture
def features() -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(torch.randn(2, 3, 4, generator=generator, dtype=torch.float64))


@pytest.fixture
def decoder() -> Decoder:
    options = SoftAttentionOptions(
        hidden_size=5,
        embedding_size=3,
        attention_size=4,
        feature_embedding_size=6,
        dropout=0.5,
        detach_attention=True,
    )
    generator = torch.Generator().manual_seed(2)
    made = build_decoder(
        "soft_attention", options, vocabulary_size=6, feature_size=4, generator=generator
    ).double()
    with torch.no_grad():
        made.output.weight.mul_(20)  # type: ignore[operator] # far from uniform
    return made


def log_prob(decoder: Decoder, features: Features, image: int, caption: Any, p: float) -> Tensor:
    """Return what the decoder gives to a caption among those that can be drawn, step by step."""
    memory = decoder.prepare(features.select(slice(image, image + 1)))
    state, word, total = decoder.start(memory), START, torch.zeros((), dtype=torch.float64)
    for step, target in enumerate(caption):
        state = decoder.detached(state) if p else state
        logits, state, _ = decoder.step(torch.tensor([[word]]), state, memory)
        allowed = [A, B] if step == 0 else [END, A, B]
        total = total + logits[0, 0, allowed].log_softmax(0)[allowed.index(target)]
        word = target
    return total


def drawn(choice: Any, images: int = 2) -> SampledCaptions:
    """Return chosen captions: `choice` holds for each sample its number in `CAPTIONS`."""
    words = np.broadcast_to(np.array([CAPTIONS[one] for one in choice]), (images, len(choice), 2))
    is_ended = (words == END).any(2)
    return SampledCaptions(words, np.full(is_ended.shape, 2), is_ended)


def passing(p: float) -> DecoderPass:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    return DecoderPass(p, generator(), generator(), generator(), None)


def objective(**options: Any) -> SelfCritical:
    made = SelfCritical(SelfCriticalOptions(sample_length=LONGEST, **options), VOCABULARY)
    made.begin([*REFERENCES, [["a", "a"]], [["c", "b"]]])
    return made


def batch_of(features: Features) -> ObjectiveBatch:
    captions = [[VOCABULARY.encode(words) for words in own] for own in REFERENCES]
    return ObjectiveBatch(features, CaptionBatch.pack(captions), REFERENCES)


def gradient(decoder: Decoder, value: Tensor) -> Tensor:
    parts = torch.autograd.grad(value, list(decoder.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"samples": 2},
        {"samples": 1, "baseline": "greedy"},
        {"samples": 2, "bleu_weight": 3.0, "meteor_weight": 2.0, "unfinished_penalty": 0.7},
    ],
    ids=str,
)
def test_the_mean_of_all_draws_is_the_gradient_of_the_expected_reward(
    options: dict[str, Any],
    p: float,
    decoder: Decoder,
    features: Features,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, count = objective(**options), options["samples"]
    made._ends_badly[B] = True  # "b" stands for a function word here
    log_probs = [[log_prob(decoder, features, n, one, p) for one in CAPTIONS] for n in range(2)]
    for own in log_probs:
        assert float(torch.stack(own).detach().exp().sum()) == pytest.approx(1)
    rewards = torch.from_numpy(made.rewards(drawn(range(6)), REFERENCES))
    shares = torch.tensor([3 / 4, 1 / 4])
    expected = sum(
        share * (torch.stack(own).exp() * reward).sum()
        for share, own, reward in zip(shares, log_probs, rewards, strict=True)
    )
    enumerated = gradient(decoder, -torch.as_tensor(expected))
    assert enumerated.abs().max() > 1e-2

    # The captions of both images are drawn together: all pairs of draws would be many, so both get
    # the same ones, once with the probabilities of the one image and once with the other's.
    found, greedy = torch.zeros_like(enumerated), 4
    decoder.train()
    for choice in itertools.product(range(6), repeat=count):
        with_baseline = (*choice, greedy) if "baseline" in options else choice
        monkeypatch.setattr(
            self_critical, "sample_captions", lambda *_, now=with_baseline, **__: drawn(now)
        )
        for image in range(2):
            weights = shares.clone()
            weights[1 - image] = 0
            monkeypatch.setattr(
                self_critical, "reference_shares", lambda _, now=weights: now.numpy()
            )
            loss, _ = made(decoder, batch_of(features), passing(p))
            chance = torch.stack([log_probs[image][one] for one in choice]).sum().exp().detach()
            found += chance * gradient(decoder, loss)
    torch.testing.assert_close(found, enumerated, rtol=1e-5, atol=1e-7)
    assert decoder.training


def test_each_reference_counts_the_same() -> None:
    np.testing.assert_allclose(self_critical.reference_shares(REFERENCES), [3 / 4, 1 / 4])


def test_captions_are_drawn_as_often_as_the_decoder_says(
    decoder: Decoder, features: Features
) -> None:
    draws = 20_000
    generator = torch.Generator().manual_seed(5)
    decoder.eval()
    found = sample_captions(decoder, features, draws, max_length=LONGEST, generator=generator)
    for image in range(2):
        for caption in CAPTIONS:
            chance = float(log_prob(decoder, features, image, caption, 0).detach().exp())
            share = float((found.words[image] == caption).all(1).mean())
            assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / draws) ** 0.5)


def test_no_special_word_is_drawn_and_captions_end(decoder: Decoder, features: Features) -> None:
    decoder.eval()
    with torch.no_grad():
        decoder.output.bias[[PAD, START, UNKNOWN]] = 50.0  # type: ignore[index, operator]
    generator = torch.Generator().manual_seed(5)
    found = sample_captions(
        decoder, features, 300, max_length=7, generator=generator, with_greedy=True
    )
    assert set(np.unique(found.words)) <= {END, A, B}
    assert (found.words[:, :, 0] != END).all()
    for own, lengths, ended in zip(found.words, found.lengths, found.is_ended, strict=True):
        for words, length, is_ended in zip(own, lengths, ended, strict=True):
            ends = np.flatnonzero(words == END)
            assert is_ended == bool(len(ends))
            assert length == (ends[0] + 1 if is_ended else len(words))
    words = found.token_lists()
    assert [len(own) for own in words] == [301, 301]
    assert all(1 <= len(one) <= 7 and END not in one for own in words for one in own)
    best = max((A, B), key=lambda word: float(first_logits(decoder, features)[0, word]))
    assert found.words[0, -1, 0] == best


def first_logits(decoder: Decoder, features: Features) -> Tensor:
    memory = decoder.prepare(features)
    words = torch.full((2, 1), START)
    logits: Tensor = decoder.step(words, decoder.start(memory), memory).logits[:, 0].detach()
    return logits


def test_images_whose_captions_have_ended_leave_without_changing_the_others(
    decoder: Decoder,
) -> None:
    grid = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    decoder.eval()

    def draw(images: slice) -> SampledCaptions:
        generator = torch.Generator().manual_seed(6)
        one = Features(grid[images])
        return sample_captions(decoder, one, 0, max_length=6, generator=generator, with_greedy=True)

    with torch.no_grad():
        decoder.output.bias[END] = 0.7  # type: ignore[index, operator]
    together = draw(slice(None)).token_lists()
    assert len({len(own[0]) for own in together}) > 1
    assert together == [draw(slice(n, n + 1)).token_lists()[0] for n in range(9)]


def test_captions_without_photographs_teach_by_cross_entropy_alone() -> None:
    made, batch = objective(samples=2, cross_entropy_weight=0.5), batch_of
    assert made.options.uses_captions_alone
    assert not SelfCriticalOptions().uses_captions_alone

    class Blind(torch.nn.Module):
        samples_in_training = False

        def forward(self, _: Features, captions: CaptionBatch, **__: Any) -> Any:
            logits = torch.zeros(captions.num_tokens, 6, dtype=torch.float64)
            return self_critical.DecoderOutput(logits, None)

    alone = Features(torch.zeros(2, 0, 4, dtype=torch.float64))
    loss, figures = made(Blind(), batch(alone), passing(0.0))  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(0.5 * np.log(6))
    assert list(figures) == ["cross_entropy"]


@pytest.fixture
def critical(trained: Path, tiny: list[str]) -> list[str]:
    place = [*tiny[tiny.index("--data") :], "--device", "cpu", "--threads", "1", "--workers", "1"]
    return [*place, "--start-from", str(trained), "--objective", "self_critical", "--p", "0.4"]


@pytest.mark.parametrize(
    "options",
    [["--samples", "3"], ["--baseline", "greedy", "--samples", "1", "--cross-entropy-weight", "1"]],
    ids=" ".join,
)
def test_a_run_is_resumed_exactly_and_tells_what_it_rewards(
    options: list[str], critical: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    words = [*critical, *options, "--horizontal-flip", "--lr-schedule", "constant"]
    assert train_here(*words, "--epochs", "2", "--out", "whole") == 0
    assert train_here(*words, "--epochs", "1", "--out", "halves") == 0
    assert train_here("--resume", "halves", "--epochs", "2") == 0
    for name in ("decoder", "optimiser", "generators"):
        files = [tmp_path / run / "last" / f"{name}.safetensors" for run in ("whole", "halves")]
        assert file_hash(files[0]) == file_hash(files[1])
    lines = read_metrics(RunFolder(tmp_path / "whole"))
    log = [line for line in lines if "lr" in line]
    for name in ("reward", "baseline", "sample_length", "samples_ended", "samples_unfinished"):
        assert all(np.isfinite(line[name]) for line in log)
    scored = [line for line in lines if "CIDEr" in line]
    assert all(line["words_used"] >= 1 for line in scored)
    assert {"caption_length", "unfinished"} <= scored[0].keys()


@pytest.mark.parametrize("options", [{"samples": 4}, {"baseline": "greedy"}], ids=str)
def test_it_moves_the_reward_up(
    options: dict[str, Any], decoder: Decoder, features: Features
) -> None:
    made, run_decoder = objective(**options), passing(0.25)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.03)
    rewards = []
    for _ in range(60):
        loss, figures = made(decoder, batch_of(features), run_decoder)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rewards.append(float(figures["reward"]))
    best = made.rewards(drawn(range(6)), REFERENCES).max(1).mean()
    assert np.mean(rewards[:5]) < 0.6 * best
    assert np.mean(rewards[-5:]) > 0.9 * best


def test_it_needs_a_trained_model_and_a_baseline(
    tiny: list[str],
    critical: list[str],
    train_here: TrainHere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, message in (
        ([*tiny, "--objective", "self_critical"], "give its checkpoint by --start-from"),
        ([*critical, "--samples", "1"], "--samples is 1 with --baseline samples"),
    ):
        assert train_here(*words) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
