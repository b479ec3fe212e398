"""The static page in a real browser, from a plain server of files in a subfolder, and offline.

Opening a model takes seconds, so tests share a page where they can.
"""

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captioner
from captioner.deployable import load_deployable
from serving.static_page import write_static_page

from .marionette import Firefox
from .static_server import ISOLATION, StaticServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page  # noqa: E402
from playwright.sync_api import expect as expect_soon  # noqa: E402

PATH = "some/folder/"
SLOW_MILLISECONDS = 60_000  # a busy machine compiles WebAssembly slowly
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
OPEN = """async options => {
    const { Captioner } = await import(new URL("captioner.js", document.baseURI).href);
    globalThis.captioner ??= await Captioner.load("./", options);
    return globalThis.captioner.info;
}"""
CAPTION = """async ([bytes, options]) => {
    try {
        const blob = new Blob([new Uint8Array(bytes)]);
        return await globalThis.captioner.look(blob, options);
    } catch (error) {
        return { name: error.name, title: error.title, detail: error.detail, code: error.code };
    }
}"""


def chromium(driver: Any, *flags: str) -> Browser:
    """Return Debian's Chromium, or the one that CHROMIUM names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium; install it, or name one in CHROMIUM")
    started: Browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
    return started


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(driver: Any) -> Iterator[Browser]:
    browser = chromium(driver)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[StaticServer]:
    server = StaticServer(site.parents[1])
    yield server
    server.close()


@pytest.fixture(scope="module")
def model(deployable: Path) -> Any:
    """The library's captioner of the same folder."""
    return captioner.load(deployable)


def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Yield a page; at the end it has asked no other host, kept no cookie, broken no policy."""
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
    context.set_default_timeout(SLOW_MILLISECONDS)
    page = context.new_page()
    asked: list[str] = []
    broken: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda message: "Policy" in message.text and broken.append(message.text))
    page.goto(url)
    yield page
    assert context.cookies() == []
    context.close()
    folder = url.rpartition("/")[0] + "/"
    assert [one for one in asked if not one.startswith((folder, "blob:", "data:"))] == []
    assert broken == []


@pytest.fixture(scope="module")
def shown(browser: Browser, host: StaticServer) -> Iterator[Page]:
    yield from opened(browser, host.url + PATH, reduced_motion="reduce")


@pytest.fixture
def page(shown: Page) -> Iterator[Page]:
    """The page without photographs."""
    yield shown
    for button in reversed(shown.get_by_role("button", name="Remove").all()):
        button.click()


@pytest.fixture(scope="module")
def module(browser: Browser, host: StaticServer) -> Iterator[Page]:
    """A page of one's own, with a captioner that is open."""
    for page in opened(browser, host.url + PATH + "example.html"):
        page.evaluate(OPEN, {"device": "wasm"})
        yield page


def expect(locator: Any) -> Any:
    """Return what waits long enough for a busy machine."""
    expect_soon.set_options(timeout=SLOW_MILLISECONDS)
    return expect_soon(locator)


def ready(page: Page) -> None:
    expect(page.locator("#model-state")).to_contain_text("Ready")


def words(page: Page) -> Any:
    return page.locator(".caption .words")


def expected(model: Any, photograph: Any, **options: Any) -> list[str]:
    (found,) = model.captions([photograph], **options)
    return [one.text for one in found]


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def keeps_alone(page: Page, version: str) -> bool:
    names = page.evaluate("caches.keys()")
    kept = [name for name in names if name.startswith("captioner-page")]
    return len(kept) == 1 and kept[0].endswith(version)


def test_photographs_are_captioned_as_by_the_library_and_then_without_a_network(
    browser: Browser,
    site: Path,
    deployable: Path,
    runtime: Path,
    model: Any,
    photographs: list[Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(site, tmp_path / PATH)
    host = StaticServer(tmp_path)
    for page in opened(browser, host.url + PATH, reduced_motion="reduce"):
        ready(page)
        page.set_input_files("#files", [str(path) for path in photographs])
        expect(page.locator(".caption.best")).to_have_count(len(photographs))
        texts = [text for path in photographs for text in expected(model, path, num_captions=3)]
        expect(words(page)).to_have_text(texts)
        facts = page.locator(".facts").first
        expect(facts).to_contain_text("JPEG 48 × 32")
        expect(facts).to_contain_text("model tiny")
        words(page).first.get_by_role("button").first.hover()
        expect(page.locator(".frame.lit")).to_be_visible()

        # Another model is published in the same folder: the next visit but one has it.
        page.evaluate("navigator.serviceWorker.ready")
        loaded = load_deployable(deployable)
        write_static_page(loaded, tmp_path / PATH, name="later", runtime=runtime)
        version = (tmp_path / PATH / "files.js").read_text().split('"')[1]
        page.reload()
        while not keeps_alone(page, version):
            time.sleep(0.1)
        host.close()
        page.reload()
        ready(page)
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(texts[:3])
        expect(facts).to_contain_text("model later")
        page.get_by_role("slider", name="Captions").press("ArrowRight")
        expect(words(page)).to_have_text(expected(model, photographs[0], num_captions=4))


def test_a_broken_file_gets_an_error_in_words(
    page: Page, tmp_path: Path, photographs: list[Path]
) -> None:
    broken, text = tmp_path / "broken.jpg", tmp_path / "letter.jpg"
    broken.write_bytes(photographs[0].read_bytes()[:200])
    text.write_text("dear")
    page.set_input_files("#files", [str(broken), str(text), str(photographs[1])])
    wrong = page.locator(".state.wrong")
    expect(wrong.first).to_contain_text("The image cannot be decoded.It is a JPEG that is damaged")
    expect(wrong.last).to_contain_text("The format is not supported.")
    expect(page.locator(".caption.best")).to_have_count(1)


def test_captions_can_be_drawn_by_chance_on_the_page(
    page: Page, model: Any, photographs: list[Path]
) -> None:
    page.set_input_files("#files", str(photographs[0]))
    expect(words(page)).to_have_text(expected(model, photographs[0], num_captions=3))
    before = words(page).all_text_contents()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Draw by chance").check()
    page.get_by_role("slider", name="Temperature").press("End")
    expect(words(page)).not_to_have_text(before)
    expect(page.locator(".state.wrong")).to_have_count(0)
    page.get_by_label("Draw by chance").uncheck()
    expect(words(page)).to_have_text(before)


def test_the_page_is_accessible_and_fits(page: Page, photographs: list[Path]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.set_input_files("#files", str(photographs[0]))
    expect(page.locator(".caption.best")).to_have_count(1)
    before = page.viewport_size
    for scheme, width, height in (("dark", 320, 640), ("light", 1280, 900)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert before is not None
    page.set_viewport_size(before)


def test_the_module_sees_pictures_as_the_library_does(
    module: Page, model: Any, photographs: list[Path]
) -> None:
    info = module.evaluate(OPEN, {})
    assert info["device"] == "wasm"
    assert info["threads"] == 1
    photograph = Image.open(photographs[0])
    turned = Image.Exif()
    turned[274] = 6
    see_through = photograph.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(photograph.size))
    pictures = [
        png(photograph, exif=turned),
        png(see_through),
        png(photograph.convert("L")),
        png(photograph.convert("P")),
    ]
    for picture in pictures:
        found = module.evaluate(CAPTION, [list(picture), {"numCaptions": 2}])
        texts = [one["text"] for one in found["captions"]]
        assert texts == expected(model, picture, num_captions=2)
    found = module.evaluate(CAPTION, [list(pictures[0]), {"numCaptions": 1}])
    assert (found["image"]["width"], found["image"]["height"]) == (32, 48)


def test_the_module_keeps_to_demands_and_refuses_what_it_cannot_do(
    module: Page, model: Any, photographs: list[Path]
) -> None:
    bytes_ = list(photographs[2].read_bytes())
    demands = {"include": ["dog"], "exclude": ["cat"], "beamSize": 4}
    found = module.evaluate(CAPTION, [bytes_, demands])
    assert [one["text"] for one in found["captions"]] == expected(
        model, photographs[2], num_captions=1, include=["dog"], exclude=["cat"], beam_size=4
    )
    draw = {"sample": True, "temperature": 1.5, "seed": 5}
    found = module.evaluate(CAPTION, [bytes_, {**draw, "numCaptions": 4}])
    assert [one["text"] for one in found["captions"]] == expected(
        model, photographs[2], num_captions=4, **draw
    )
    refused = module.evaluate(CAPTION, [bytes_, {"include": ["zeppelin"]}])
    assert refused["code"] == "invalid_parameter"
    assert "zeppelin" in refused["detail"]


def test_captions_can_be_aborted_and_the_module_closed(
    module: Page, photographs: list[Path]
) -> None:
    module.evaluate(OPEN, {"device": "wasm"})
    said = module.evaluate(
        """async bytes => {
            const { captioner } = globalThis;
            const blob = new Blob([new Uint8Array(bytes)]);
            const named = (error) => error.title ? error.code : error.name;
            const ends = (work) => work.then(() => "done", named);
            const stop = new AbortController();
            const { signal } = stop;
            const both = [captioner.caption(blob, { signal }), captioner.caption(blob)];
            stop.abort();
            const first = await Promise.all(both.map(ends));
            const late = captioner.caption(blob);
            captioner.close();
            delete globalThis.captioner;
            return [...first, await ends(late), await ends(captioner.caption(blob))];
        }""",
        list(photographs[0].read_bytes()),
    )
    assert said == ["AbortError", "done", "closed", "closed"]


def test_a_load_can_be_aborted_and_tells_how_far_it_is(module: Page) -> None:
    said = module.evaluate(
        """async () => {
            const { Captioner } = await import(new URL("captioner.js", document.baseURI).href);
            const told = [];
            const onProgress = (progress) => told.push(progress);
            (await Captioner.load("./", { onProgress })).close();
            const stop = new AbortController();
            const aborted = Captioner.load("./", { signal: stop.signal });
            stop.abort();
            const end = await aborted.then(() => "done", (error) => error.name);
            const nowhere = await Captioner.load("./nowhere").catch((error) => error.title);
            return { told, end, nowhere };
        }"""
    )
    assert said["end"] == "AbortError"
    assert said["nowhere"] == "The model cannot be fetched"
    last = said["told"][-1]
    assert last["loaded"] == last["total"] > 3_000_000


def test_a_damaged_piece_is_noticed(browser: Browser, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "some" / "folder")
    piece = max((tmp_path / PATH / "pieces").iterdir(), key=lambda path: path.stat().st_size)
    for path in (tmp_path / PATH / "pieces").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert piece.exists()
    host = StaticServer(tmp_path)
    for page in opened(browser, host.url + PATH):
        expect(page.locator("#model-state")).to_contain_text(
            "The model is damaged. A piece of it is not what was exported."
        )
    host.close()


def test_threads_compute_where_the_host_isolates_the_page(
    browser: Browser, site: Path, model: Any, photographs: list[Path]
) -> None:
    host = StaticServer(site.parents[1], ISOLATION)
    for page in opened(browser, host.url + PATH):
        cores = page.evaluate("Math.min(navigator.hardwareConcurrency, 4)")
        many = "one thread" if cores == 1 else f"{cores} threads"
        expect(page.locator("#model-state")).to_contain_text(f"Ready: WebAssembly, {many}.")
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(expected(model, photographs[0], num_captions=3))
    host.close()


def test_the_element_writes_the_alt_text_and_leaves_that_of_a_person(
    browser: Browser, host: StaticServer, model: Any, photographs: list[Path]
) -> None:
    for page in opened(browser, host.url + PATH + "example.html"):
        texts = [expected(model, path, num_captions=1)[0] for path in photographs[:2]]
        field = page.get_by_label("Alt text")
        page.set_input_files("#photo", str(photographs[0]))
        expect(field).to_have_value(texts[0].capitalize() + ".")
        page.set_input_files("#photo", str(photographs[1]))
        expect(field).to_have_value(texts[1].capitalize() + ".")
        field.fill("My own words")
        heard = """new Promise(resolve => document.querySelector("photo-caption")
            .addEventListener("captions", event => resolve(event.detail[0].text)))"""
        page.evaluate(f"globalThis.heard = {heard}; null")
        page.set_input_files("#photo", str(photographs[0]))
        assert page.evaluate("globalThis.heard") == texts[0]
        expect(field).to_have_value("My own words")
        page.set_input_files("#photo", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"x"})
        expect(page.locator("photo-caption output")).to_contain_text("The format is not supported")


@pytest.fixture(scope="module")
def with_gpu(driver: Any) -> Iterator[Browser]:
    """Chromium with the GPU that it has in software, which is for tests alone."""
    browser = chromium(driver, *SOFTWARE_GPU)
    yield browser
    browser.close()


def has_gpu(page: Page) -> bool:
    found: bool = page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
    return found


def test_webassembly_computes_where_webgpu_fails(
    with_gpu: Browser, site: Path, model: Any, photographs: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / PATH)
    (glue,) = (tmp_path / PATH / "onnxruntime").glob("*.jspi.mjs")
    glue.write_text("throw new Error('broken');")
    host = StaticServer(tmp_path)
    for page in opened(with_gpu, host.url + PATH + "?device=webgpu"):
        if not has_gpu(page):
            pytest.skip("this Chromium has no WebGPU in software")
        expect(page.locator("#model-state")).to_contain_text("Ready: WebAssembly")
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(expected(model, photographs[0], num_captions=3))
        page.get_by_label("Compute with").select_option("wasm")
        page.set_input_files("#files", str(photographs[1]))
        expect(words(page)).to_have_count(6)
    host.close()


@pytest.mark.skipif(
    "CAPTIONER_WEBGPU" not in os.environ,
    reason="a GPU in software takes a minute and more; CAPTIONER_WEBGPU=1 waits for it",
)
def test_webgpu_captions_as_the_library_does_and_is_left_when_it_is_lost(
    with_gpu: Browser, host: StaticServer, model: Any, photographs: list[Path]
) -> None:
    for page in opened(with_gpu, host.url + PATH):
        assert has_gpu(page)
        state = page.locator("#model-state")
        expect(state).to_contain_text("Ready: WebAssembly")  # software is not chosen by itself
        page.get_by_label("Compute with").select_option("webgpu")
        expect_soon(state).to_contain_text("Ready: WebGPU", timeout=5 * SLOW_MILLISECONDS)
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(expected(model, photographs[0], num_captions=3))
        (worker,) = page.workers
        worker.evaluate("""() => {
            GPUQueue.prototype.submit = () => { throw new Error("the GPU is lost"); };
        }""")
        page.set_input_files("#files", str(photographs[1]))
        expect(words(page)).to_have_count(6)
        texts = [expected(model, path, num_captions=3) for path in (photographs[1], photographs[0])]
        expect(words(page)).to_have_text([*texts[0], *texts[1]])
        expect(state).to_contain_text("Ready: WebAssembly")


def test_firefox_captions_as_the_library_does(
    host: StaticServer, model: Any, photographs: list[Path], tmp_path: Path
) -> None:
    program = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("there is no Firefox; install firefox-esr, or name one in FIREFOX")
    profile = tmp_path / "profile"
    profile.mkdir()
    firefox = Firefox(program, profile)
    try:
        firefox.ask("WebDriver:Navigate", url=host.url + PATH)
        firefox.put("#files", photographs[0])
        deadline = time.monotonic() + SLOW_MILLISECONDS / 1000
        found: list[str] = []
        while not found and time.monotonic() < deadline:
            time.sleep(0.2)
            found = firefox.run(
                "return [...document.querySelectorAll('.words')].map(one => one.textContent)"
            )
        state = firefox.run("return document.getElementById('model-state').textContent")
        assert found == expected(model, photographs[0], num_captions=3), state
        assert state.startswith("Ready: WebAssembly")
    finally:
        firefox.close()
