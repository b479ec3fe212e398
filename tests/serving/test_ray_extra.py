"""Modules for Ray where Ray is not installed: one line says how to install it."""

import importlib
import sys

import pytest

from captioner.errors import ToolError


@pytest.mark.parametrize(
    "module", ["serving.ray_app", "serving.ray_back_end", "captioner.batch_inference.ray_data"]
)
def test_without_ray_one_line_says_how_to_install_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("ray.", "serving.ray"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ToolError, match=r"run: pip install 'captioner\[ray\]'$") as raised:
        importlib.import_module(module)
    assert "\n" not in str(raised.value)
