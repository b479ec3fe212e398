"""SAB: an LSTM that looks back at a few of its past states, and learns through those looks.

Source: Ke et al., *Sparse Attentive Backtracking: Temporal Credit Assignment Through Reminding*,
NeurIPS 2018 (arXiv 1809.03702), section 3, and the authors' code for the copying task.

    h', c_t = LSTM(x_t, h_{t-1}, c_{t-1})         (h and c detached every --truncation steps)
    a_i = w . tanh(Q h' + K m_i + k)              for each stored state m_i
    r_i = max(0, a_i - a_(k+1)),  w_i = r_i / sum r      a_(k+1): the (k+1)-th greatest score
    s_t = sum_i w_i m_i,    h_t = h' + s_t,    output [h_t, s_t]: 2 H numbers

At most k = --top-k weights are not zero, so the gradient goes back through few states, each of
which passes it on through the truncated stretch before it. h_t is stored every --store-every steps;
the memory begins with the zero state.

Where text and code differ, or are silent: the code's threshold is the k-th score, which leaves
k - 1 states; here it is the (k+1)-th. With no more than k states there is no threshold, and the
scores are the weights as they are (code). The code scores without a hidden layer,
w . tanh([h', m_i]): a term in h' plus one in m_i, so that behind the threshold its weights do not
depend on the present state at all. Here the layer is there, the MLP of the paper. Defaults are
ours.

Memory: at most --memory-size states are kept, the newest; a row then needs memory-size * H numbers,
however long the sequence. With the default and --store-every 20 the first is dropped after 10,240
steps, beyond all tasks here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioner.options import AT_LEAST_ONE, option
from training.methods import MethodOptions, RecurrentMethod, draw_uniform

State = tuple[Tensor, Tensor, Tensor, Tensor]

_LEAST_SUM = 1e-8  # that weights are divided by, where scores tie


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions):
    top_k: int = option(10, "stored states that a step attends to, at most", within=AT_LEAST_ONE)
    truncation: int = option(
        20, "steps after which the gradient along the LSTM is cut", within=AT_LEAST_ONE
    )
    store_every: int = option(20, "steps from one stored state to the next", within=AT_LEAST_ONE)
    attention_size: int = option(
        32, "units of the hidden layer that scores a stored state", within=AT_LEAST_ONE
    )
    memory_size: int = option(512, "stored states that are kept, the newest", within=AT_LEAST_ONE)


class Method(RecurrentMethod):
    """The network of the module's docstring."""

    def __init__(
        self, input_size: int, hidden_size: int, options: Options, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.options = options
        self.hidden_size, self.output_size = hidden_size, 2 * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.query = nn.Parameter(torch.empty(options.attention_size, hidden_size))
        self.key = nn.Parameter(torch.empty(options.attention_size, hidden_size))
        self.key_bias = nn.Parameter(torch.empty(options.attention_size))
        self.score = nn.Parameter(torch.empty(options.attention_size))
        draw_uniform(self, hidden_size**-0.5, generator)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
    ) -> tuple[Tensor, State]:
        """Run all steps.

        `state` is h [B, H], c [B, H], the stored states [B, M, H] and the number of steps so far.
        """
        rows = x.shape[1]
        zeros = x.new_zeros(rows, self.hidden_size)
        h, c, memory, count = state or (zeros, zeros, zeros.unsqueeze(1), torch.tensor(0))
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)
        recurrent = self.weight_hh.t()
        keys = nn.functional.linear(memory, self.key, self.key_bias)
        outputs = []
        for number, now in enumerate(projected.unbind(), int(count) + 1):
            if number % self.options.truncation == 0:
                h, c = h.detach(), c.detach()
            i, f, g, o = torch.addmm(now, h, recurrent).chunk(4, dim=1)
            c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
            h = o.sigmoid() * c.tanh()
            weights = self.attend(h, keys)
            summary = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h = h + summary
            if number % self.options.store_every == 0:
                memory = self._appended(memory, h)
                keys = self._appended(keys, nn.functional.linear(h, self.key, self.key_bias))
            outputs.append(torch.cat([h, summary], dim=1))
        return torch.stack(outputs), (h, c, memory, count + len(outputs))

    def attend(self, h: Tensor, keys: Tensor) -> Tensor:
        """Return the weights of the stored states, of which at most `top_k` are not zero.

        Shapes:
            h [B, H], keys [B, M, A] -> [B, M].
        """
        asked = nn.functional.linear(h, self.query).unsqueeze(1)
        scores = torch.tanh(keys + asked) @ self.score
        if scores.shape[1] <= self.options.top_k:
            return scores
        threshold = scores.topk(self.options.top_k + 1, dim=1).values[:, -1:]
        above = (scores - threshold).relu()
        return above / above.sum(dim=1, keepdim=True).clamp_min(_LEAST_SUM)

    def _appended(self, stored: Tensor, new: Tensor) -> Tensor:
        return torch.cat([stored, new.unsqueeze(1)], dim=1)[:, -self.options.memory_size :]
