"""Word-level language modelling on a text file, where the paper saw no gain from h-detach.

A text is split at white space into words, with a mark at the end of each line. Words that are too
rare in the training part are one unknown word. The first four fifths train, the next tenth
validates, the last tests. Training is truncated backpropagation: the text lies in `--batch-size`
columns, an update reads `--steps` words of each, and the state passes from one update to the next
without its gradient. Perplexity is exp of the mean cross-entropy of a word.

Shapes: T steps, B columns, E embedding, V words.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner.decoders.interface import dropout
from captioner.errors import DataError, OptionError
from captioner.options import ABOVE_ZERO, AT_LEAST_ONE, SHARE, option
from training.benchmarks.config import BenchmarkConfig
from training.benchmarks.task import Batch, SequenceModel, Task
from training.methods import RecurrentMethod, State
from training.randomness import derived_generator
from training.work import Figures

UNKNOWN, LINE_END = "<unk>", "<eos>"
_TRAINING, _VALIDATION = 0.8, 0.1  # shares of the text; the rest tests
_EVALUATION_COLUMNS, _EVALUATION_STEPS = 10, 100  # which bound its memory
_EMBEDDING_BOUND = 0.1


@dataclass(frozen=True, kw_only=True)
class TextConfig(BenchmarkConfig):
    text: str | None = option(None, "the text file, in UTF-8", metavar="FILE", changeable=True)
    min_count: int = option(
        2, "how often the training part must have a word for it to be kept", within=AT_LEAST_ONE
    )
    embedding_size: int = option(200, "length of a word's vector", within=AT_LEAST_ONE)
    dropout: float = option(
        0.2, "share of the inputs and outputs of the recurrent layer that is dropped", within=SHARE
    )
    steps: int = option(35, "words of each column in an update", within=AT_LEAST_ONE)
    hidden_size: int = option(200, "units of the recurrent layer", within=AT_LEAST_ONE)
    batch_size: int = option(20, "columns that the text is laid in", within=AT_LEAST_ONE)
    lr: float = option(2e-3, "learning rate of Adam", within=ABOVE_ZERO)
    epochs: int = option(20, "epochs to train", within=AT_LEAST_ONE, changeable=True)

    def contradictions(self) -> Iterable[str]:
        if self.text is None:
            yield "--text is missing; give a text file in UTF-8, the longer the better"


class LanguageModel(SequenceModel):
    """Word vectors under the recurrent method and its output layer."""

    def __init__(
        self,
        method: RecurrentMethod,
        words: int,
        embedding_size: int,
        dropout: float,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(method, words, generator=generator)
        self.embedding = nn.Embedding(words, embedding_size)
        with torch.no_grad():
            self.embedding.weight.uniform_(-_EMBEDDING_BOUND, _EMBEDDING_BOUND, generator=generator)
        self._dropout = dropout

    def step_logits(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        generator: torch.Generator | None = None,
        dropout_generator: torch.Generator | None = None,
    ) -> tuple[Tensor, State]:
        """Return scores of the next word at every step: x [T, B] words -> [T, B, V]."""
        vectors = dropout(self.embedding(x), self._dropout, self.training, dropout_generator)
        outputs, state = self.method(vectors, state, generator=generator)
        return self.head(dropout(outputs, self._dropout, self.training, dropout_generator)), state


class TextTask(Task):
    name = "word_language_model"
    score = "perplexity"
    higher_is_better = False

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        words = read_words(Path(config.text or ""))
        bounds = [int(share * len(words)) for share in (_TRAINING, _TRAINING + _VALIDATION)]
        parts = words[: bounds[0]], words[bounds[0] : bounds[1]], words[bounds[1] :]
        self.vocabulary = vocabulary_of(parts[0], config.min_count)
        numbers = {word: number for number, word in enumerate(self.vocabulary)}
        training, validation, test = (
            torch.tensor([numbers.get(word, 0) for word in part], dtype=torch.long)
            for part in parts
        )
        self.input_size = config.embedding_size
        self.classes = len(self.vocabulary)
        self.training = _columns(training, config.batch_size, "--batch-size").to(device)
        columns = min(_EVALUATION_COLUMNS, max(1, len(test) - 1))
        self.validation, self._test = (
            _columns(part, columns, "the evaluation's columns").to(device)
            for part in (validation, test)
        )
        whole_epoch = math.ceil((len(self.training) - 1) / config.steps)
        self.updates_per_epoch = min(config.updates or whole_epoch, whole_epoch)
        self._state: State | None = None  # of the columns, behind the last update
        self._place = 0, 0  # epoch and number of the batch that was yielded last

    def build_model(self, method: RecurrentMethod, generator: torch.Generator) -> SequenceModel:
        if not method.is_causal:
            raise OptionError(
                "--bidirectional would let the model read the word it is asked for; leave it out"
            )
        return LanguageModel(
            method,
            self.classes,
            self._config.embedding_size,
            self._config.dropout,
            generator=generator,
        )

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield inputs and targets [T, B]; every epoch reads the text in its own order."""
        if start == 0:
            self._state = None
        windows = _windows(self.training, self._config.steps)
        for number, batch in enumerate(islice(windows, self.updates_per_epoch)):
            if number >= start:
                self._place = epoch, number
                yield batch

    def loss(self, model: LanguageModel, batch: Batch, generator: torch.Generator) -> Tensor:
        inputs, targets = batch
        # Not from the masks' generator, where another --p would shift what is dropped.
        of_dropout = derived_generator(
            self._config.seed, "dropout", *self._place, device=self._device
        )
        logits, state = model.step_logits(
            inputs, self._state, generator=generator, dropout_generator=of_dropout
        )
        self._state = _detached(state)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def validate(self, model: SequenceModel) -> Figures:
        return evaluate(model, self.validation)

    def tests(self) -> Mapping[str, Callable[[SequenceModel], Figures]]:
        return {"test": lambda model: evaluate(model, self._test)}

    def fingerprint(self) -> dict[str, Any]:
        words = " ".join(self.vocabulary).encode()
        text = self.training.cpu().numpy().tobytes()
        return {"text": hashlib.sha256(words + text).hexdigest()}

    def memory(self) -> dict[str, Tensor]:
        return {} if self._state is None else _flattened(self._state)

    def restore_memory(self, memory: Mapping[str, Tensor]) -> None:
        self._state = _nested(memory, self._device) if memory else None


def read_words(path: Path) -> list[str]:
    """Return the words of a text, with a mark behind each line that has any.

    Raises:
        DataError: the file is missing, is not text in UTF-8, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise DataError(
            f"--text {path} cannot be read: {problem.strerror}; give a text file in UTF-8"
        ) from problem
    except UnicodeDecodeError as problem:
        raise DataError(
            f"--text {path} is not UTF-8 (byte {problem.start:,}); convert it first"
        ) from problem
    words = [word for line in lines if line.strip() for word in (*line.split(), LINE_END)]
    if not words:
        raise DataError(f"--text {path} has no words; give a text file in UTF-8")
    return words


def vocabulary_of(words: list[str], min_count: int) -> list[str]:
    """Return the unknown word, and then the known ones, the most frequent first."""
    counts = Counter(words)
    counts.pop(UNKNOWN, None)
    known = [word for word, count in counts.items() if count >= min_count]
    return [UNKNOWN, *sorted(known, key=lambda word: (-counts[word], word))]


@torch.no_grad()
def evaluate(model: SequenceModel, columns: Tensor) -> Figures:
    """Return loss and perplexity; every column begins without a state, as a text of its own."""
    loss = torch.zeros((), dtype=torch.float64, device=columns.device)
    state: State | None = None
    for inputs, targets in _windows(columns, _EVALUATION_STEPS):
        logits, state = model.step_logits(inputs, state)
        loss += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )
    mean = loss.item() / columns[1:].numel()
    return {"perplexity": math.exp(min(mean, 700.0)), "loss": mean}  # exp of more overflows


def _columns(words: Tensor, count: int, what: str) -> Tensor:
    """Lay words in columns, one below the other: [N] -> [N // count, count]; a rest is left out."""
    length = len(words) // count
    if length < 2:
        raise DataError(
            f"a part of the text has {len(words):,} words, too few for {what} {count}; "
            "give a longer text, or a smaller --batch-size"
        )
    return words[: length * count].view(count, length).t().contiguous()


def _windows(columns: Tensor, steps: int) -> Iterator[Batch]:
    for start in range(0, len(columns) - 1, steps):
        stop = min(start + steps, len(columns) - 1)
        yield columns[start:stop], columns[start + 1 : stop + 1]


def _detached(state: State) -> State:
    return state.detach() if isinstance(state, Tensor) else tuple(_detached(one) for one in state)


def _flattened(state: State, name: str = "state") -> dict[str, Tensor]:
    """Return the tensors of a nested tuple by their place in it, such as `state.1.0`."""
    if isinstance(state, Tensor):
        return {name: state.contiguous()}
    parts = (_flattened(one, f"{name}.{number}") for number, one in enumerate(state))
    return {key: value for part in parts for key, value in part.items()}


def _nested(tensors: Mapping[str, Tensor], device: torch.device, name: str = "state") -> State:
    """Return what `_flattened` took apart."""
    if name in tensors:
        return tensors[name].to(device)
    inside = {key[len(name) + 1 :].split(".")[0] for key in tensors if key.startswith(name + ".")}
    return tuple(_nested(tensors, device, f"{name}.{number}") for number in range(len(inside)))
