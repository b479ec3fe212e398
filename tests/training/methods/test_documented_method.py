"""The method that docs/benchmarks.md adds as an example is one that the benchmarks take."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.benchmarks.reproductions import Row
from training.methods import RecurrentMethod

PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md"


def test_the_example_works_as_it_stands(x: Tensor) -> None:
    method, row = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "leaky"}
    exec(method, names)
    network = names["Method"](3, 6, names["Options"](), generator=torch.Generator()).double()
    assert isinstance(network, RecurrentMethod)
    whole, _ = network(x)
    first, state = network(x[:9])
    rest, _ = network(x[9:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    assert whole.shape[2] == network.output_size
    found = eval(row, {"Row": Row})
    assert dict(found.options) == {"leak": 0.2}
