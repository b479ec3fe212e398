"""Decoders as a textbook would write them: one caption, one step at a time, `.detach()`."""

import torch
from torch import Tensor

from captioner.attributes import Classifier
from captioner.decoders import Decoder
from captioner.vocabulary import END, START
from tests.decoders.naive_attributes import naive_att_fcn, naive_lstm_attributes


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.split(c.shape[-1], dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def naive_attention(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, Tensor]:
    """Return logits [words + 1, V] and attention [words + 1, P]; features [P, D]."""
    d = decoder
    values = features
    if d.embed_features is not None:
        values = torch.relu(d.embed_features(features))
    h, c = torch.tanh(d.initial_state(values.mean(0))).chunk(2)
    positions = len(features)
    if d.attribute_items is not None:
        words, scores = naive_attributes(d.attribute_detector, features)
        items = [
            d.attribute_items.layer(torch.cat([d.embedding(torch.tensor(word)), score[None]]))
            for word, score in list(zip(words, scores, strict=True))[: d.options.attributes]
        ]
        values = torch.cat([values, torch.stack(items)])
    logits, attention = [], []
    for t, word in enumerate([START, *caption]):
        entering = h if keep[t] == 1.0 else h.detach()
        asking = entering if d.options.detach_attention else h
        hidden_layer = torch.tanh(d.attention_keys(values) + d.attention_query(asking))
        alpha = torch.softmax(d.attention_score(hidden_layer).squeeze(-1), dim=0)
        beta = torch.sigmoid(d.context_gate(asking))
        context = beta * (alpha.unsqueeze(1) * values).sum(0)
        gates = d.word_gates(d.embedding(torch.tensor(word)))
        gates = gates + d.context_gates(context) + d.recurrent_gates(entering)
        h, c = lstm_cell(gates, c)
        logits.append(d.output(h))
        attention.append(alpha[:positions] / alpha[:positions].sum())
    return torch.stack(logits), torch.stack(attention)


def naive_attributes(detector: Classifier, features: Tensor) -> tuple[list[int], list[Tensor]]:
    """Return all attribute words with their probabilities, the most probable first."""
    classes = torch.softmax(detector.weight @ features.mean(0) + detector.bias, dim=0)
    found: dict[int, Tensor] = {}
    for number, of_words in enumerate(detector.words_of_classes):
        for word, counts in zip(detector.word_ids.tolist(), of_words.tolist(), strict=True):
            if counts:
                found[word] = found.get(word, features.new_zeros(())) + classes[number]
    words = sorted(found, key=lambda word: -float(found[word].detach()))
    return words, [found[word] for word in words]


def naive_show_tell(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, None]:
    """Return logits [words + 1, V]; features [P, D]."""
    d = decoder
    zero = features.new_zeros(d.options.hidden_size)
    h, c = lstm_cell(d.input_gates(d.embed_image(features.mean(0))) + d.recurrent_gates(zero), zero)
    logits = []
    for t, word in enumerate([START, *caption]):
        entering = h if keep[t] == 1.0 else h.detach()
        gates = d.input_gates(d.embedding(torch.tensor(word))) + d.recurrent_gates(entering)
        h, c = lstm_cell(gates, c)
        logits.append(d.output(h))
    return torch.stack(logits), None


def naive_neuraltalk(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, None]:
    """Return logits [words + 1, V]; features [P, D]."""
    d = decoder
    if d.options.cell == "lstm":
        return naive_show_tell(decoder, features, caption, keep)
    h = features.new_zeros(d.options.hidden_size)
    logits = []
    for t, word in enumerate([START, *caption]):
        before = d.input_gates(d.embedding(torch.tensor(word))) + d.recurrent_gates(h)
        if t == 0:
            before = before + d.embed_image(features.mean(0))
        h = before.clamp(min=0)
        logits.append(d.output(h))
    return torch.stack(logits), None


def naive_adaptive_attention(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, Tensor]:
    """Return logits [words + 1, V] and attention [words + 1, P]; features [P, D]."""
    d = decoder
    values = torch.relu(d.embed_features(features))
    image = torch.relu(d.embed_image(features.mean(0)))
    h = c = features.new_zeros(d.options.hidden_size)
    logits, attention = [], []
    for t, word in enumerate([START, *caption]):
        entering = h if keep[t] == 1.0 else h.detach()
        gates = d.word_gates(d.embedding(torch.tensor(word))) + d.image_gates(image)
        *of_lstm, fifth = (gates + d.recurrent_gates(entering)).chunk(5)
        h, c = lstm_cell(torch.cat(of_lstm), c)
        sentinel = torch.sigmoid(fifth) * torch.tanh(c)
        query = d.attention_query(h)
        z = torch.stack(
            [d.attention_score(torch.tanh(d.attention_keys(v) + query)) for v in values]
        )
        z_sentinel = d.attention_score(torch.tanh(d.sentinel_key(sentinel) + query))
        beta = torch.softmax(torch.cat([z.flatten(), z_sentinel]), dim=0)[-1]
        alpha = torch.softmax(z.flatten(), dim=0)
        context = beta * sentinel + (1 - beta) * (alpha.unsqueeze(1) * values).sum(0)
        logits.append(d.output(context + h))
        attention.append(alpha)
    return torch.stack(logits), torch.stack(attention)


TWINS = {
    "soft_attention": naive_attention,
    "show_tell": naive_show_tell,
    "hard_attention": naive_attention,  # as it captions
    "neuraltalk": naive_neuraltalk,
    "lstm_attributes": naive_lstm_attributes,
    "att_fcn": naive_att_fcn,
    "twinnet": naive_show_tell,
    "twinnet_attention": naive_attention,
    "adaptive_attention": naive_adaptive_attention,
}


def naive_loss(
    decoder: Decoder,
    grid: Tensor,
    captions: list[list[list[int]]],
    keep: list[float],
    *,
    label_smoothing: float = 0.0,
    attention_regulariser: float = 0.0,
) -> Tensor:
    """Return the loss of `caption_loss`, summed caption by caption."""
    run = TWINS[decoder.name.removeprefix("plain_")]
    words, uneven, total, count = 0, grid.new_zeros(()), grid.new_zeros(()), 0
    for features, of_image in zip(grid, captions, strict=True):
        for caption in of_image:
            logits, attention = run(decoder, features, caption, keep)
            targets = torch.tensor([*caption, END])
            log_probs = torch.log_softmax(logits, dim=-1)
            hit = -log_probs[torch.arange(len(targets)), targets]
            total = (
                total + ((1 - label_smoothing) * hit - label_smoothing * log_probs.mean(1)).sum()
            )
            if attention is not None:
                uneven = uneven + ((1 - attention.sum(0)) ** 2).sum()
            words += len(targets)
            count += 1
    return total / words + attention_regulariser * uneven / count
