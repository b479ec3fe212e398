"""The folder that `captioner export --web` writes."""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from captioner.cli import main
from captioner.errors import ToolError
from serving import onnxruntime_web as runtime_files
from serving.onnxruntime_web import PAGE
from serving.routes.page_files import page_routes
from serving.static_page import POLICY, weights_of_graphs


def test_the_pieces_make_the_files_of_the_model(site: Path, deployable: Path) -> None:
    manifest = json.loads((site / "model.json").read_text())
    named = set()
    for name, file in manifest["files"].items():
        content = b""
        for piece in file["pieces"]:
            packed = (site / piece["name"]).read_bytes()
            assert len(packed) == piece["bytes"]
            assert hashlib.sha256(packed).hexdigest() == piece["sha256"]
            named.add(piece["name"])
            content += gzip.decompress(packed)
        assert len(content) == file["bytes"]
        if (deployable / name).is_file():
            assert content == (deployable / name).read_bytes()
    assert named == {f"pieces/{path.name}" for path in (site / "pieces").iterdir()}
    weights = {one for own in manifest["graphs"].values() for one in own}
    assert {*manifest["graphs"], *weights, "vocabulary.json"} < manifest["files"].keys()
    facts = json.loads((deployable / "deployable.json").read_text())
    assert manifest["attribute_detector"] == facts["attribute_detector"]


def test_a_policy_allows_the_own_host_alone_and_no_file_names_another(site: Path) -> None:
    pages = [path.read_text() for path in site.glob("*.html")]
    assert pages
    assert all(f'http-equiv="Content-Security-Policy" content="{POLICY}"' in one for one in pages)
    assert POLICY.startswith("default-src 'none'")
    for path in site.rglob("*"):
        is_ours = path.suffix in (".html", ".js", ".css") and path.parent.name != "onnxruntime"
        if is_ours:
            text = re.sub(r'<a href="[^"]*"', "", path.read_text())  # followed by people alone
            addresses = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
            assert set(addresses) <= {"http://www.w3.org"}, path


def test_nothing_of_the_service_is_in_the_page(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert 'href="docs"' not in page
    assert "<!-- browser" not in page
    assert 'id="model-state"' in page
    assert not any((site / name).exists() for name in ("service.js", "docs.html", "package.json"))


def test_the_service_serves_none_of_what_stands_for_it() -> None:
    served = {route.path for route in page_routes()}  # type: ignore[attr-defined]
    assert {"/page.js", "/back_end.js", "/service.js"} <= served
    assert not served & {"/captioner.js", "/browser_back_end.js", "/service_worker.js"}
    page = (PAGE / "index.html").read_text()
    assert 'id="model-state"' not in re.sub(r"<!-- browser.*?/browser -->", "", page, flags=re.S)


def test_all_files_are_kept_for_visits_without_a_network(site: Path) -> None:
    listed = set(json.loads((site / "files.js").read_text().partition("self.FILES = ")[2][:-2]))
    there = {
        path.relative_to(site).as_posix()
        for path in site.rglob("*")
        if path.is_file() and path.parent.name != "pieces"
    }
    assert there - listed == {"service_worker.js", "files.js", "_headers"}


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, deployable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["export", str(deployable), "--web", str(tmp_path)]) == 2
    assert "exists and is no such page; choose another name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_model_is_left_alone(
    tmp_path: Path,
    tiny_checkpoint: Path,
    deployable: Path,
    runtime: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert runtime.is_dir()
    for model in (tiny_checkpoint, deployable):
        out = shutil.copytree(model, tmp_path / model.name)
        assert main(["export", str(deployable), "--web", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f"error: --web is {out}, which holds a checkpoint or an exported model; "
            "choose another folder"
        )
        assert content(out) == content(model)
    (out / "hashes.json").unlink()
    (out / "model.json").write_text("{}")
    assert main(["export", str(deployable), "--web", str(out)]) == 2
    assert "is no such page" in capsys.readouterr().err


def content(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder: of each file its bytes, of each folder None."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def test_a_page_is_renewed_in_a_checkout_and_what_no_export_wrote_is_kept(
    tmp_path: Path, site: Path, deployable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(site, tmp_path / "site")
    git = ["git", "-C", str(out), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "page"]):
        subprocess.run([*git, *words], check=True)
    ours = {"CNAME": b"example.org", ".nojekyll": b"", "examples/mine.jpg": b"\xff\xd8"}
    for name, data in ours.items():
        (out / name).write_bytes(data)
    (out / "latest").symlink_to("nowhere")
    capsys.readouterr()
    (out / "pieces" / "of_another_model.piece").write_bytes(b"old")
    (out / "index.html").write_text("old")
    before = content(out / ".git")
    assert main(["export", str(deployable), "--web", str(out)]) == 0
    assert content(out / ".git") == before
    assert (out / "latest").readlink() == Path("nowhere")
    (out / "latest").unlink()
    shutil.rmtree(out / ".git")
    assert content(out) == content(site) | ours
    size = sum(len(data) for data in content(site).values() if data is not None)
    assert f" {size / 1e6:.1f} MB in all" in capsys.readouterr().out


def test_a_first_page_goes_into_an_empty_checkout(
    tmp_path: Path, site: Path, deployable: Path
) -> None:
    out = tmp_path / "site"
    subprocess.run(["git", "init", "--quiet", str(out)], check=True)
    (out / "CNAME").write_text("example.org")
    before = content(out)
    assert main(["export", str(deployable), "--web", str(out)]) == 0
    assert content(out) == content(site) | before


def test_a_file_of_the_users_is_never_overwritten_by_a_page(
    tmp_path: Path, site: Path, deployable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(site, tmp_path / "site")
    # As if the page before had no example.html, and the user had made one.
    listed = (out / "files.js").read_text()
    (out / "files.js").write_text(re.sub(r' "example\.html": ".*",\n', "", listed))
    assert (out / "files.js").read_text() != listed
    before = content(out)
    assert main(["export", str(deployable), "--web", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {out}/example.html is in the way of a file that is to be")
    assert content(out) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{}", "--web", "out", "--precision", "int8"], "--precision: .* is exported already"),
        ([], "there is no CHECKPOINT to export"),
        (["nowhere", "--web", "out"], "nowhere"),
    ],
)
def test_a_wrong_command_says_so_in_a_line(
    deployable: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(one.format(deployable) for one in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(expected, line)
    assert not (tmp_path / "out").exists()


def test_a_captioner_for_another_engine_is_refused(deployable: Path, tmp_path: Path) -> None:
    from captioner.deployable import load_deployable
    from captioner.errors import CheckpointError

    loaded = load_deployable(deployable)
    object.__setattr__(loaded, "folder", tmp_path)
    with pytest.raises(CheckpointError, match="export the checkpoint again with --engine onnx"):
        weights_of_graphs(loaded)


def test_without_npm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(runtime_files.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"install Node\.js, or give its files in CAPTIONER_ONNX"):
        runtime_files.onnxruntime_web(print)
    monkeypatch.setenv(runtime_files.VARIABLE, str(tmp_path))
    with pytest.raises(ToolError, match=r"has no ort\.wasm\.min\.mjs"):
        runtime_files.onnxruntime_web(print)


def test_the_lock_names_no_host_and_pins_everything() -> None:
    text = (PAGE / "package-lock.json").read_text()
    assert "://" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in one for name, one in packages.items() if name)


def test_the_types_of_the_modules_fit() -> None:
    checker = PAGE / "node_modules" / ".bin" / "tsc"
    if not checker.exists() or shutil.which("node") is None:
        pytest.skip("there is no tsc; run `npm ci --ignore-scripts` in serving/page")
    done = subprocess.run([checker, "-p", PAGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
