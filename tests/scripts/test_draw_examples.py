"""The picture of the examples, with the model in the box."""

import csv
import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location(
    "draw_examples", ROOT / "scripts" / "draw_examples.py"
)
draw_examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(draw_examples)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_every_photograph_is_drawn_with_its_caption(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for photograph in ("kitchen.jpg", "zebras.jpg"):
        shutil.copy(draw_examples.PHOTOGRAPHS / photograph, tmp_path)
    out = tmp_path / "drawn" / name
    out.parent.mkdir()
    assert draw_examples.main(["--photographs", str(tmp_path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["kitchen", "zebras", "drawn:"]
    with Image.open(out) as picture:
        assert picture.format == kind
        assert sum(count > 0 for count in picture.convert("L").histogram()) > 100
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_other_formats_and_empty_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw_examples.main(["--out", "a.gif"]) == 2
    assert "give a name ending in .png or .jpg" in capsys.readouterr().err
    assert draw_examples.main(["--out", "a.png", "--photographs", str(tmp_path)]) == 2
    assert "holds no .jpg" in capsys.readouterr().err


def test_every_example_is_credited() -> None:
    table = (ROOT / "docs" / "pictures" / "credits.md").read_text(encoding="utf-8")
    credited = {row[1].strip() for row in csv.reader(table.splitlines(), delimiter="|") if row[1:]}
    for folder in (draw_examples.PHOTOGRAPHS, ROOT / "serving" / "page" / "examples"):
        names = {path.stem for path in folder.iterdir()}
        assert names
        assert names <= credited
