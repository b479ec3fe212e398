"""What the documents promise exists: options, files, links; and every option is in them."""

import argparse
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch.distributed.run

from captioner.cli import build_parser
from captioner.decoders import DECODERS
from captioner.native.build import build_parser as build_kernels_parser
from serving.__main__ import build_parser as build_serving_parser
from training import copying, sequential_mnist, train_coco, word_language_model
from training.captioners.grid import build_parser as build_table3_parser
from training.command import build_parser as build_training_parser
from training.evaluate_coco import build_parser as build_evaluation_parser
from training.gradient_paths import build_parser as build_paths_parser
from training.methods import method_names
from training.objectives import OBJECTIVES
from training.reproduce import build_parser as build_reproduce_parser
from training.vanishing_gradients import build_parser as build_vanishing_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OF_OTHER_PROGRAMS = {
    *("--check", "--logdir"),  # ruff's, TensorBoard's
    *("--build", "--entrypoint", "--profile", "--rm"),  # of docker compose
    *("--dashboard-host", "--generate", "--head"),  # of ray
}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (word for word in action.option_strings if word.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options(sub)


def options_of_training() -> Iterator[str]:
    for decoder in DECODERS:
        for objective in OBJECTIVES:
            parts = {"decoder": decoder, "objective": objective}
            yield from options(build_training_parser(train_coco.TrainCoco(), parts))


def options_of_benchmarks() -> Iterator[str]:
    yield from options(build_reproduce_parser())
    yield from options(build_table3_parser())
    for script in (copying.SCRIPT, sequential_mnist.SCRIPT, word_language_model.SCRIPT):
        for model in method_names():
            yield from options(build_training_parser(script, {"model": model}))


def options_of_scripts() -> Iterator[str]:
    """The flags of the scripts: words of their code, and fields made by `option`."""
    for script in sorted((ROOT / "scripts").rglob("*.py")):
        text = script.read_text(encoding="utf-8")
        yield from re.findall(r'"(--[a-z][a-z-]*)"', text)
        fields = re.findall(r"^    (\w+): .+ = option\(", text, re.MULTILINE)
        yield from ("--" + name.replace("_", "-") for name in fields)


@cache
def known_options() -> frozenset[str]:
    return frozenset(
        {
            *options(build_parser()),
            *options(build_evaluation_parser()),
            *options(build_paths_parser()),
            *options(build_vanishing_parser()),
            *options(build_serving_parser("serving")),
            *options(build_kernels_parser()),
            *options_of_training(),
            *options_of_benchmarks(),
            *options_of_scripts(),
            *options(torch.distributed.run.get_args_parser()),
            *OF_OTHER_PROGRAMS,
        }
    )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_option_in_a_document_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
    assert named - known_options() == set()


def test_every_option_of_training_is_documented() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    ours = {word for word in options_of_training() if word != "--help"}
    positive = {word for word in ours if not (word.startswith("--no-") and f"--{word[5:]}" in ours)}
    missing = {
        word for word in positive if not re.search(rf"--(no-)?{re.escape(word[2:])}(?![\w-])", text)
    }
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def anchors(page: Path) -> set[str]:
    """The places on a page that a link may name, as GitHub names its headings."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:captioner|training|scripts|tests)/[\w/]+\.py", text)
    missing = {name for name in named if not (ROOT / name).exists()}
    assert {name for name in missing if "/your_" not in name} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_package_is_installed_from_a_checkout(page: Path) -> None:
    from_an_index = r"pip install [^#\n]*captioner\["  # and there it is not
    assert re.findall(from_an_index, page.read_text(encoding="utf-8")) == []
