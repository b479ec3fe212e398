"""A textbook's search with a decoder of soft attention: one image at a time, plain loops.

It follows the most read tutorial (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, `caption.py`):
the features are repeated for every beam, the attention projects them anew at each step, an
`nn.LSTMCell` reads word and context, and a caption that ends leaves the beam. It shares no code
with the project's search, so where captions take all steps (the rules for ends differ), equal ones
show that both are right.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.vocabulary import END, PAD, START, UNKNOWN
from inference import BEAMS, STEPS
from inference.worker import random_grid


class Textbook:
    """The decoder's weights in the modules that a textbook has."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        w = self.weights = load_file(checkpoint / "decoder.safetensors")
        hidden = w["recurrent_gates.weight"].shape[1]
        into = torch.cat([w["word_gates.weight"], w["context_gates.weight"]], dim=1)
        self.cell = nn.LSTMCell(into.shape[1], hidden)
        self.cell.weight_ih.data = into
        self.cell.weight_hh.data = w["recurrent_gates.weight"]
        self.cell.bias_ih.data = w["word_gates.bias"]
        self.cell.bias_hh.data.zero_()

    def facts(self) -> dict[str, Any]:
        return {"imports_torch": True}

    def decode(self, batch: int, features: int) -> Callable[[], list[list[int]]]:
        grids = torch.from_numpy(random_grid(batch, features))
        return lambda: [self.caption(grid) for grid in grids]

    @torch.no_grad()
    def caption(self, grid: Tensor, attributes: Tensor | None = None) -> list[int]:
        """Return the words of the best caption: grid [P, D], and more to look at [N, size]."""
        rows = BEAMS
        if "embed_features.weight" in self.weights:
            grid = torch.relu(self._linear("embed_features", grid))
        mean = grid.mean(0, keepdim=True).expand(rows, -1)
        hidden, cell = torch.tanh(self._linear("initial_state", mean)).chunk(2, dim=1)
        if attributes is not None:
            grid = torch.cat([grid, attributes])
        grid = grid.expand(rows, *grid.shape)
        captions = torch.full((rows, 1), START)
        totals = torch.zeros(rows, 1)
        ended: list[tuple[float, list[int]]] = []
        for step in range(STEPS):
            words = self.weights["embedding.weight"][captions[:, -1]]
            context = self._attend(grid[:rows], hidden)
            hidden, cell = self.cell(torch.cat([words, context], dim=1), (hidden, cell))
            log_probs = self._linear("output", hidden).log_softmax(dim=1)
            log_probs[:, [PAD, START, UNKNOWN]] = -torch.inf
            scores = totals.expand_as(log_probs) + log_probs
            if step == 0:  # all rows are equal
                scores = scores[:1]
            best, places = scores.flatten().topk(rows)
            parents, next_words = places // log_probs.shape[1], places % log_probs.shape[1]
            captions = torch.cat([captions[parents], next_words.unsqueeze(1)], dim=1)
            going = [row for row, word in enumerate(next_words.tolist()) if word != END]
            for row in set(range(rows)) - set(going):
                ended.append((best[row].item() / (step + 1) ** 0.7, captions[row, 1:-1].tolist()))
            if not going:
                break
            rows = len(going)
            captions, totals = captions[going], best[going].unsqueeze(1)
            hidden, cell = hidden[parents[going]], cell[parents[going]]
        else:
            ended += [
                (total / STEPS**0.7, words[1:])
                for total, words in zip(totals.squeeze(1).tolist(), captions.tolist(), strict=True)
            ]
        return max(ended)[1]

    def _attend(self, grid: Tensor, hidden: Tensor) -> Tensor:
        keys = self._linear("attention_keys", grid)  # [K, P, A]
        query = self._linear("attention_query", hidden).unsqueeze(1)
        scores = self._linear("attention_score", torch.tanh(keys + query)).squeeze(2)
        mean = (grid * scores.softmax(dim=1).unsqueeze(2)).sum(dim=1)
        return self._linear("context_gate", hidden).sigmoid() * mean

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        )
