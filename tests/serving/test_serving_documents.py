"""The document of the service names every setting with its default, every error, every metric."""

import re
from dataclasses import fields
from pathlib import Path

from captioner.options import default_text
from serving.problems import KINDS
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_every_error_has_its_place_and_status() -> None:
    for code, kind in KINDS.items():
        assert f'<a id="{code}"></a>`{code}` | {kind.status} |' in TEXT
    assert len(re.findall("<a id=", TEXT)) == len(KINDS)


def test_every_setting_is_there_with_its_default() -> None:
    for one in fields(Settings):
        (row,) = re.findall(rf"^\| `{one.name}` \| (.*?) \|", TEXT, re.MULTILINE)
        if default := default_text(Settings, one.name):
            assert row == f"`{default}`", one.name


def test_every_metric_is_there() -> None:
    for family in Metrics().registry.collect():
        if family.name.startswith(("caption_", "http_")):
            assert f"`{family.name}" in TEXT, family.name
