"""The decoders that read attributes as their papers write them: loops over words and attributes."""

import torch
from torch import Tensor

from captioner.decoders import Decoder
from captioner.vocabulary import START


def lstm_step(decoder: Decoder, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state after the input x."""
    i, f, g, o = (decoder.input_gates(x) + decoder.recurrent_gates(h)).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def probabilities(decoder: Decoder, features: Tensor) -> list[Tensor]:
    """Return the probability of each attribute: one minus that no position shows it."""
    detector = decoder.attribute_detector
    found = []
    for weight, bias in zip(detector.weight, detector.bias, strict=True):
        absent = features.new_ones(())
        for position in features:
            absent = absent * (1 - torch.sigmoid(weight @ position + bias))
        found.append(1 - absent)
    return found


def best(found: list[Tensor], count: int) -> list[int]:
    """Return the places of the most probable ones."""
    return sorted(range(len(found)), key=lambda place: -float(found[place].detach()))[:count]


def naive_lstm_attributes(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, None]:
    """Return logits [words + 1, V]; features [P, D]."""
    d = decoder
    found = probabilities(decoder, features)
    attributes = features.new_zeros(d.options.embedding_size)
    for place in best(found, d.options.attributes or len(found)):
        word = d.attribute_detector.word_ids[place]
        attributes = attributes + found[place] * d.attribute_embedding[word]
    image = None if d.options.variant == 1 else d.embed_image(features.mean(0))
    h = c = features.new_zeros(d.options.hidden_size)
    always = torch.zeros_like(attributes)
    if d.options.variant == 1:
        h, c = lstm_step(d, attributes, h, c)
    elif d.options.variant == 2:
        h, c = lstm_step(d, image, h, c)
        h, c = lstm_step(d, attributes, h, c)
    elif d.options.variant == 3:
        h, c = lstm_step(d, attributes, h, c)
        h, c = lstm_step(d, image, h, c)
    elif d.options.variant == 4:
        h, c = lstm_step(d, attributes, h, c)
        always = image
    else:
        h, c = lstm_step(d, image, h, c)
        always = attributes
    logits = []
    for t, word in enumerate([START, *caption]):
        entering = h if keep[t] == 1.0 else h.detach()
        h, c = lstm_step(d, d.embedding(torch.tensor(word)) + always, entering, c)
        logits.append(d.output(h))
    return torch.stack(logits), None


def naive_att_fcn(
    decoder: Decoder, features: Tensor, caption: list[int], keep: list[float]
) -> tuple[Tensor, None]:
    """Return logits [words + 1, V]; features [P, D]."""
    d = decoder
    of_input, of_output = d.input_attention.weight, d.output_attention.weight
    places = best(probabilities(decoder, features), d.options.attributes)
    attributes = [d.embedding(d.attribute_detector.word_ids[place]) for place in places]
    activated = [torch.tanh(d.to_hidden(one)) for one in attributes]
    zero = features.new_zeros(d.options.hidden_size)
    h, c = lstm_step(d, d.embed_image(features.mean(0)), zero, zero)
    logits = []
    for t, word in enumerate([START, *caption]):
        entering = h if keep[t] == 1.0 else h.detach()
        embedded = d.embedding(torch.tensor(word))
        alpha = softmax([bilinear(embedded, of_input, one) for one in attributes])
        seen = sum(weight * one for weight, one in zip(alpha, attributes, strict=True))
        h, c = lstm_step(d, embedded + d.input_scale * seen, entering, c)
        beta = softmax([bilinear(h, of_output, one) for one in activated])
        seen = sum(weight * one for weight, one in zip(beta, activated, strict=True))
        logits.append(d.output(h + d.output_scale * seen))
    return torch.stack(logits), None


def bilinear(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(())
    for i in range(len(left)):
        for j in range(len(right)):
            total = total + left[i] * matrix[i, j] * right[j]
    return total


def softmax(scores: list[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(score) for score in scores]
    return [one / sum(exponentials) for one in exponentials]
