"""The contents of the wheel, and the files that people expect beside the code."""

import re
from pathlib import Path

import pytest
import yaml
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

from captioner import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def packaged() -> set[str]:
    """The data files that a wheel holds beside the modules, as paths below the repository."""
    distribution = Distribution()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        apply_configuration(distribution, "pyproject.toml")
        distribution.include_package_data = False  # looking for manifests would write egg-info
        build = distribution.get_command_obj("build_py")
        build.ensure_finalized()
        found = [(Path(folder), names) for _, folder, _, names in build.data_files]
    return {(folder / name).as_posix() for folder, names in found for name in names}


def test_every_package_is_marked_as_typed(packaged: set[str]) -> None:
    assert {f"{name}/py.typed" for name in ("captioner", "serving", "training")} <= packaged


def test_the_page_and_the_kernel_are_packaged(packaged: set[str]) -> None:
    folders = (ROOT / "serving" / "page", ROOT / "captioner" / "native" / "source")
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(ROOT)) for path in paths}
    left_out = ("__", "node_modules")  # made by tools
    assert {name for name in files if not any(one in name for one in left_out)} <= packaged


def test_the_citation_is_whole_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    assert citation["references"][0]["conference"]["name"]


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert any(heading.startswith(f"{__version__} - ") for heading in headings)
