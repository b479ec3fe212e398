"""The static page in a real browser, from a plain server of files in a subfolder, and offline."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import captioner

from .static_server import ISOLATION, StaticServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page  # noqa: E402
from playwright.sync_api import expect as expect_soon  # noqa: E402

PATH = "some/folder/"
SLOW_MILLISECONDS = 60_000  # a busy machine compiles WebAssembly slowly
OPEN = """async options => {
    const { Captioner } = await import(new URL("captioner.js", document.baseURI).href);
    globalThis.captioner = await Captioner.load("./", options);
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium; install it, or name one in CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[StaticServer]:
    server = StaticServer(site.parents[1])
    yield server
    server.close()


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


@pytest.fixture
def page(browser: Browser, host: StaticServer) -> Iterator[Page]:
    yield from opened(browser, host.url + PATH)


def expect(locator: Any) -> Any:
    """Return what waits long enough for a busy machine."""
    expect_soon.set_options(timeout=SLOW_MILLISECONDS)
    return expect_soon(locator)


def ready(page: Page) -> None:
    expect(page.locator("#model-state")).to_contain_text("Ready")


def words(page: Page) -> Any:
    return page.locator(".caption .words")


def expected(deployable: Path, photograph: Any, **options: Any) -> list[str]:
    (found,) = captioner.load(deployable).captions([photograph], **options)
    return [one.text for one in found]


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_photographs_are_captioned_as_by_the_library_and_then_without_a_network(
    browser: Browser, site: Path, deployable: Path, photographs: list[Path]
) -> None:
    host = StaticServer(site.parents[1])
    for page in opened(browser, host.url + PATH, reduced_motion="reduce"):
        ready(page)
        page.set_input_files("#files", [str(path) for path in photographs])
        expect(page.locator(".caption.best")).to_have_count(len(photographs))
        texts = [
            text for path in photographs for text in expected(deployable, path, num_captions=3)
        ]
        expect(words(page)).to_have_text(texts)
        expect(page.locator(".facts").first).to_contain_text("JPEG 48 × 32")
        words(page).first.get_by_role("button").first.hover()
        expect(page.locator(".frame.lit")).to_be_visible()

        page.evaluate("navigator.serviceWorker.ready")
        host.close()
        page.reload()
        ready(page)
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(texts[:3])
        page.get_by_role("slider", name="Captions").press("ArrowRight")
        expect(words(page)).to_have_text(expected(deployable, photographs[0], num_captions=4))


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


def test_the_module_sees_pictures_as_the_library_does(
    page: Page, deployable: Path, photographs: list[Path]
) -> None:
    info = page.evaluate(OPEN, {"device": "wasm"})
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
        found = page.evaluate(CAPTION, [list(picture), {"numCaptions": 2}])
        texts = [one["text"] for one in found["captions"]]
        assert texts == expected(deployable, picture, num_captions=2)
    found = page.evaluate(CAPTION, [list(pictures[0]), {"numCaptions": 1}])
    assert (found["image"]["width"], found["image"]["height"]) == (32, 48)


def test_the_module_keeps_to_demands_and_refuses_what_it_cannot_do(
    page: Page, deployable: Path, photographs: list[Path]
) -> None:
    page.evaluate(OPEN, {})
    bytes_ = list(photographs[2].read_bytes())
    demands = {"include": ["dog"], "exclude": ["cat"], "beamSize": 4}
    found = page.evaluate(CAPTION, [bytes_, demands])
    assert [one["text"] for one in found["captions"]] == expected(
        deployable, photographs[2], num_captions=1, include=["dog"], exclude=["cat"], beam_size=4
    )
    refused = page.evaluate(CAPTION, [bytes_, {"include": ["zeppelin"]}])
    assert refused["code"] == "invalid_parameter"
    assert "zeppelin" in refused["detail"]


def test_captions_can_be_aborted_and_the_module_closed(page: Page, photographs: list[Path]) -> None:
    page.evaluate(OPEN, {})
    said = page.evaluate(
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
            return [...first, await ends(late), await ends(captioner.caption(blob))];
        }""",
        list(photographs[0].read_bytes()),
    )
    assert said == ["AbortError", "done", "closed", "closed"]


def test_a_load_can_be_aborted_and_tells_how_far_it_is(browser: Browser, site: Path) -> None:
    host = StaticServer(site.parents[1])
    for page in opened(browser, host.url + PATH):
        said = page.evaluate(
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
        ready(page)
    host.close()


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
    browser: Browser, site: Path, deployable: Path, photographs: list[Path]
) -> None:
    host = StaticServer(site.parents[1], ISOLATION)
    for page in opened(browser, host.url + PATH):
        expect(page.locator("#model-state")).to_contain_text("2 threads")
        page.set_input_files("#files", str(photographs[0]))
        expect(words(page)).to_have_text(expected(deployable, photographs[0], num_captions=3))
    host.close()


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", (1280, 900)), ("dark", (320, 640))], ids=["desk", "phone"]
)
def test_the_page_is_accessible_and_fits(
    browser: Browser,
    host: StaticServer,
    photographs: list[Path],
    scheme: str,
    size: tuple[int, int],
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": size[0], "height": size[1]}
    for page in opened(browser, host.url + PATH, color_scheme=scheme, viewport=viewport):
        page.set_input_files("#files", str(photographs[0]))
        expect(page.locator(".caption.best")).to_have_count(1)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_element_writes_the_alt_text_and_leaves_that_of_a_person(
    browser: Browser, host: StaticServer, deployable: Path, photographs: list[Path]
) -> None:
    for page in opened(browser, host.url + PATH + "example.html"):
        texts = [expected(deployable, path, num_captions=1)[0] for path in photographs[:2]]
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
