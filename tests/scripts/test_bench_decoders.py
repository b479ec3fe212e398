"""The benchmark of the decoders, at a size of seconds."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from captioner.decoders import DECODERS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TINY = [
    *("--feature-size", "8", "--positions", "4", "--vocabulary-size", "40", "--batch-size", "2"),
    *("--attributes", "20", "--words", "3", "--rounds", "1", "--warmup", "0", "--threads", "1"),
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_decoders

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return bench_decoders


def test_every_decoder_is_trained_and_captions_and_the_page_has_the_table(
    bench: ModuleType, tmp_path: Path
) -> None:
    page, file = tmp_path / "page.md", tmp_path / "bench.json"
    page.write_text("# Decoders\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nrest\n")
    assert bench.main([*TINY, "--page", str(page), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == list(DECODERS)
    for of in figures.values():
        assert all(of[f"{kind}_ms"] > 0 for kind in bench.KINDS)
    text = page.read_text()
    assert text.startswith("# Decoders\n\n<!-- figures: begin -->\n\n| decoder |")
    assert text.endswith("<!-- figures: end -->\nrest\n")
    assert "old" not in text
    assert text.count("| `") == len(DECODERS)


def test_an_unknown_decoder_is_named(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--decoders", "gru"]) == 2
    assert "gru" in capsys.readouterr().err
