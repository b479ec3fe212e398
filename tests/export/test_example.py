"""The example that needs numpy, Pillow and ONNX Runtime alone."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import captioner
from captioner.export.config import ExportOptions
from captioner.export.exporter import export_captioner
from tests.export.toy_captioners import pictures, toys, write_checkpoint  # noqa: F401

EXAMPLE = Path(__file__).parents[2] / "examples" / "caption_with_onnxruntime.py"


def test_it_is_short_and_imports_nothing_of_ours():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules <= {"json", "sys", "pathlib", "numpy", "onnxruntime", "PIL"}


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("decoder", ["soft_attention", "show_tell"])
@pytest.mark.parametrize("image_mode", ["squash", "crop"])
def test_it_captions_as_the_library_does(tmp_path, monkeypatch, capsys, decoder, image_mode):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", decoder, image_mode=image_mode)
    out = tmp_path / "out"
    export_captioner(checkpoint, ExportOptions(out=out), announce=lambda _: None)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, picture in zip(paths, pictures(4), strict=True):
        picture.resize((57, 40), Image.Resampling.BICUBIC).save(path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(out), *map(str, paths)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    expected = captioner.load(out).caption(paths, beam_size=1)
    assert found == [caption.text for caption in expected]
    assert len(set(found)) > 1
