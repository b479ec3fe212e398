"""The page in a real browser: every way in, what it shows, what it says when something fails.

Most tests talk to a fake service, which fails when a test wants it to.
"""

import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from starlette.responses import PlainTextResponse

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, FileChooser, Page, expect  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "fake_service", Path(__file__).with_name("fake_service.py")
)
fake_service = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_service)

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FIND_CUT_OFF = """() => [...document.querySelectorAll("body *:not(.unseen):not(svg *)")]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5)
    .map(element => element.outerHTML.slice(0, 80))"""
READ_SHADE = """(canvas, [x, y]) => canvas.getContext("2d").getImageData(
    Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data[3]"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one that CHROMIUM names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium; install it, or name one in CHROMIUM")
    with playwright.sync_playwright() as driver:
        # The sandbox needs rights that a container does not give; only our own page is loaded.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    service = fake_service.FakeService()
    yield service
    service.close()


@pytest.fixture
def service(running: Any) -> Any:
    running.reset()
    return running


def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Yield the page; at the end it has loaded nothing from elsewhere and broken no policy."""
    options = {"reduced_motion": "reduce", "viewport": {"width": 1100, "height": 900}, **options}
    context = browser.new_context(**options)
    context.set_default_timeout(15_000)
    context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
    page = context.new_page()
    asked: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda message: "Policy" in message.text and broken.append(message.text))
    page.goto(url)
    yield page
    context.close()
    assert [one for one in asked if not one.startswith((url, "blob:", "data:"))] == []
    assert broken == []


@pytest.fixture
def page(browser: Browser, service: Any) -> Iterator[Page]:
    yield from opened(browser, service.url)


def upload(page: Page, *photographs: Path) -> None:
    page.set_input_files("#files", [str(path) for path in photographs])


def best(page: Page) -> Any:
    return page.locator(".caption.best .words")


def shade(page: Page, column: float, row: float) -> int:
    """Return how dark a cell of the grid of 3 by 3 is, from 0 (lit) to 255."""
    found: int = page.locator(".frame canvas").first.evaluate(
        READ_SHADE, [(column + 0.5) / 3, (row + 0.5) / 3]
    )
    return found


def test_a_chosen_photograph_gets_captions_with_probabilities(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    upload(page, photographs[0])
    expect(page.locator(".caption .words")).to_have_text(
        [
            "a dog runs through the grass",
            "a dog runs through the grass again",
            "a dog runs through the grass again again",
        ]
    )
    expect(page.locator(".likely")).to_have_text(
        [
            "Probably as good as a person’s: 62 %",
            "Perhaps as good as a person’s: 31 %",
            "Unlikely to be as good as a person’s: 21 %",
        ]
    )
    words = page.locator(".likely span").first.get_attribute("title")
    assert "Exactly these words have the probability 8.2\u00a0%" in words
    (asked,) = service.asked
    assert asked["body"] == photographs[0].read_bytes()
    assert asked["query"] == {"beam_size": "3", "num_captions": "3", "attention": "true"}
    alt = page.locator(".frame img").get_attribute("alt")
    assert alt == "photograph_0.jpg: A dog runs through the grass."
    expect(page.locator("#announcer")).to_have_text(alt)
    expect(page.locator(".facts")).to_have_text("JPEG 60 × 40 · 0.01 s · model fake")


def test_several_photographs_are_captioned_side_by_side_but_not_all_at_once(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    service.delay_seconds = 0.1
    upload(page, *photographs, *photographs)
    expect(best(page)).to_have_count(8)
    expect(page.locator("h3")).to_have_text([path.name for path in [*photographs, *photographs]])
    assert 2 <= service.most_at_once <= 3
    page.get_by_role("button", name="Remove photograph_3.jpg").first.click()
    expect(best(page)).to_have_count(7)


def test_a_photograph_can_be_dropped_anywhere(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    pointer = page.context.new_cdp_session(page)  # the drag of a real file, as a desktop sends it
    data = {"items": [], "files": [str(photographs[1])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        pointer.send("Input.dispatchDragEvent", {"type": kind, "x": 50, "y": 800, "data": data})
    expect(page.locator("body.dropping")).to_be_visible()
    pointer.send("Input.dispatchDragEvent", {"type": "drop", "x": 50, "y": 800, "data": data})
    expect(best(page)).to_have_text("a dog runs through the grass")
    expect(page.locator("body.dropping")).to_have_count(0)
    assert service.asked[0]["body"] == photographs[1].read_bytes()


def test_a_picture_can_be_pasted_and_text_cannot(
    page: Page, service: Any, tmp_path: Path, photographs: list[Path]
) -> None:
    picture = tmp_path / "picture.png"
    Image.open(photographs[0]).save(picture)
    page.evaluate(
        """bytes => navigator.clipboard.write([new ClipboardItem(
            {"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])""",
        list(picture.read_bytes()),
    )
    page.keyboard.press("Control+V")
    expect(best(page)).to_have_text("a dog runs through the grass")
    assert service.asked[0]["body"].startswith(b"\x89PNG")
    page.evaluate("navigator.clipboard.writeText('words')")
    page.keyboard.press("Control+V")
    expect(page.get_by_role("alert")).to_have_text("There is no picture in the clipboard.")


def test_a_photograph_can_be_taken_with_the_camera(page: Page, service: Any) -> None:
    page.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Take a photograph")
    expect(dialog).to_be_visible()
    ready = "video => video.videoWidth || new Promise(done => { video.onloadeddata = done })"
    page.locator("#viewfinder").evaluate(ready)
    page.get_by_role("button", name="Take it").click()
    expect(dialog).to_be_hidden()
    expect(best(page)).to_have_text("a dog runs through the grass")
    assert service.asked[0]["body"].startswith(b"\xff\xd8")
    assert page.locator("#viewfinder").evaluate("video => video.srcObject") is None


def test_a_word_lays_its_attention_over_the_picture(page: Page, photographs: list[Path]) -> None:
    upload(page, photographs[0])
    word = best(page).get_by_role("button", name="grass")  # the sixth: row 1, column 2
    word.hover()
    expect(page.locator(".frame.lit")).to_be_visible()
    assert shade(page, 2, 1) < 20
    assert min(shade(page, 0, 0), shade(page, 0, 1), shade(page, 0, 2)) > 150
    expect(page.locator(".looked")).to_have_text(
        "“grass”: mostly at the middle right; 83 % at its sentinel; 70 % sure"
    )
    best(page).get_by_role("button", name="a", exact=True).hover()
    assert shade(page, 0, 0) < 20
    assert shade(page, 2, 1) > 150
    page.mouse.move(5, 5)
    expect(page.locator(".frame.lit")).to_have_count(0)
    word.click()
    page.mouse.move(5, 5)
    expect(page.locator(".frame.lit")).to_be_visible()


def test_attention_lies_where_the_model_saw_the_picture(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    seen = fake_service.answer(1)
    seen["image"]["seen"] = [0.5, 0.0, 1.0, 1.0]
    service.script.append((200, {"content-type": "application/json"}, seen))
    upload(page, photographs[0])
    best(page).get_by_role("button", name="a", exact=True).hover()
    assert shade(page, 0, 0) > 150
    assert shade(page, 1.25, 0) < 20


def test_a_model_without_attention_has_words_without_light(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    blind = fake_service.answer(1, attention=False)
    blind["captions"][0]["attention"] = None
    service.script.append((200, {"content-type": "application/json"}, blind))
    upload(page, photographs[0])
    best(page).get_by_role("button", name="dog").hover()
    expect(page.locator(".frame.lit")).to_have_count(0)
    expect(best(page)).to_have_text("a dog runs through the grass")


def test_words_it_is_unsure_of_are_marked_and_said(page: Page, photographs: list[Path]) -> None:
    upload(page, photographs[0])
    expect(best(page).locator(".unsure")).to_have_text(["through"])
    word = best(page).get_by_role("button", name="through")
    assert word.get_attribute("title") == "only 8\u00a0% sure"
    assert word.evaluate("word => getComputedStyle(word).textDecorationStyle") == "dotted"
    word.focus()
    expect(page.locator(".looked")).to_contain_text("only 8 % sure")


def test_what_was_found_before_is_listed_with_the_look_that_a_word_gave_it(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    upload(page, photographs[0])
    expect(page.locator(".found li")).to_have_text(["dog 83 %", "grass 10 %"])
    best(page).get_by_role("button", name="dog").focus()
    said = page.locator(".looked")
    expect(said).to_contain_text("; 60 % at the found word “dog”; 10 % at the found word “grass”")
    part = "bar => bar.getBoundingClientRect().width / bar.parentElement.clientWidth"
    bar = page.locator(".found .share").first
    assert bar.evaluate(part) == pytest.approx(0.6, abs=0.03)
    best(page).get_by_role("button", name="runs").focus()
    expect(said).not_to_contain_text("found word")
    plain = fake_service.answer(1)
    del plain["image"]["attributes"], plain["captions"][0]["attribute_attention"]
    plain["captions"][0]["shares"] = {"sentinel": [0.05, 0.4, 0.1, 0.1, 0.1, 0.1]}
    service.script.append((200, {"content-type": "application/json"}, plain))
    upload(page, photographs[1])
    expect(best(page)).to_have_count(2)
    expect(page.locator(".found").first).to_be_hidden()
    best(page).first.get_by_role("button", name="dog").focus()
    expect(said.first).to_contain_text("; 40 % at its sentinel")


def test_a_model_without_confidence_shows_the_probability_of_the_wording(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    plain = fake_service.answer(1)
    plain["captions"][0] |= {"confidence": None, "probability": 0.0042}
    service.script.append((200, {"content-type": "application/json"}, plain))
    upload(page, photographs[0])
    expect(page.locator(".likely")).to_have_text(["exactly these words: 0.42 %"])


def test_an_example_is_captioned_at_a_click(page: Page, service: Any) -> None:
    expect(page.get_by_text("No photograph at hand?")).to_be_visible()
    page.get_by_role("button", name="Zebras in a meadow").click()
    expect(best(page)).to_have_text("a dog runs through the grass")
    expect(page.locator("h3")).to_have_text("zebras.jpg")
    assert service.asked[0]["body"] == (fake_service.PAGE / "examples/zebras.jpg").read_bytes()
    assert service.asked[0]["headers"]["content-type"] == "image/jpeg"


def test_captions_can_be_asked_to_hold_words_and_to_differ(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    upload(page, photographs[0])
    expect(best(page)).to_have_count(1)
    page.get_by_text("More", exact=True).click()

    def asked(count: int) -> dict[str, str]:
        deadline = time.monotonic() + 15
        while len(service.asked) < count and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        return service.asked[count - 1]["query"]

    usual = {"beam_size": "3", "num_captions": "3", "attention": "true"}
    page.get_by_label("Must hold", exact=True).fill("dog,  grass")
    assert len(service.asked) == 1  # half a word is none
    page.keyboard.press("Enter")
    assert asked(2) == {**usual, "include": "dog,grass"}
    page.get_by_label("Must not hold").fill("man")
    page.get_by_label("Repetition").select_option("no pair of words twice")
    assert asked(3) == {**usual, "include": "dog,grass", "exclude": "man", "no_repeat_ngram": "2"}
    page.get_by_label("Let words return").check()
    page.get_by_role("slider", name="Variety").press("ArrowRight")
    assert asked(4)["repeat_words"] == "true"
    assert asked(4)["diverse_groups"] == "2"
    assert asked(4)["beam_size"] == "4"  # two equal groups
    page.get_by_label("Draw by chance").check()
    expect(page.get_by_label("Must hold", exact=True)).to_be_disabled()
    page.get_by_role("slider", name="Temperature").press("ArrowRight")
    drawn = asked(5)
    assert (drawn["sample"], drawn["temperature"]) == ("true", "1.1")
    assert not drawn.keys() & {"include", "diverse_groups"}


def test_a_word_that_the_model_lacks_is_said_and_its_field_is_marked(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    service.refuse(
        422, "invalid_parameter", "An option cannot be used", "include holds 'zyx', which the "
        "model does not know", parameter="include",
    )  # fmt: skip
    upload(page, photographs[0])
    expect(page.locator(".state.wrong")).to_contain_text("'zyx', which the model does not know")
    field = page.get_by_label("Must hold", exact=True)
    expect(field).to_be_visible()  # though it was folded away
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("dog")
    page.keyboard.press("Enter")
    expect(best(page)).to_have_text("a dog runs through the grass")
    assert field.get_attribute("aria-invalid") is None


def test_captions_and_alt_texts_can_be_copied(page: Page, photographs: list[Path]) -> None:
    upload(page, photographs[0])
    page.get_by_role("button", name="Copy caption 1").click()
    expect(page.locator("#announcer")).to_have_text("The caption is in the clipboard.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "A dog runs through the grass."
    page.get_by_role("button", name="Caption 2 as alt text in HTML").click()
    snippet = '<img src="photograph_0.jpg" alt="A dog runs through the grass again.">'
    expect(page.locator(".snippet code")).to_have_text(snippet)
    assert page.evaluate("navigator.clipboard.readText()") == snippet


def test_what_files_and_the_service_say_is_text_never_markup(
    page: Page, service: Any, tmp_path: Path, photographs: list[Path]
) -> None:
    wicked = tmp_path / '"><img src=x onerror=alert(1)>.jpg'
    wicked.write_bytes(photographs[0].read_bytes())
    said = fake_service.answer(1)
    said["captions"] = [fake_service.caption(0, ["<b>bold</b>", "&amp;"], attention=True)]
    service.script.append((200, {"content-type": "application/json"}, said))
    upload(page, wicked)
    expect(best(page)).to_have_text("<b>bold</b> &amp;")
    expect(page.locator("h3")).to_have_text(wicked.name)
    expect(page.locator(".snippet code")).to_have_text(
        '<img src="&quot;>&lt;img src=x onerror=alert(1)>.jpg" alt="&lt;b>bold&lt;/b> &amp;amp;.">'
    )
    assert page.locator("#photographs img").count() == 1


def test_the_sliders_ask_again_and_keep_within_each_other(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    upload(page, photographs[0])
    expect(best(page)).to_have_count(1)
    page.get_by_role("slider", name="Captions").press("ArrowRight")
    expect(page.locator(".caption")).to_have_count(4)
    assert service.asked[-1]["query"]["beam_size"] == "4"
    page.get_by_role("slider", name="Beam").press("Home")
    expect(page.locator(".caption")).to_have_count(1)
    assert service.asked[-1]["query"]["num_captions"] == "1"


def test_errors_are_said_in_words(page: Page, service: Any, photographs: list[Path]) -> None:
    service.refuse(422, "corrupt_image", "The image cannot be decoded", "it ends in a scan")
    upload(page, photographs[0])
    wrong = page.locator(".state.wrong")
    expect(wrong).to_have_text("The image cannot be decoded.It ends in a scan.")
    expect(page.locator("#announcer")).to_contain_text("photograph_0.jpg: The image cannot be dec")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)  # it would not help

    page.get_by_role("button", name="Remove").click()
    service.script.append((502, {"content-type": "text/html"}, b"<h1>Bad gateway</h1>"))
    upload(page, photographs[1])
    expect(wrong).to_contain_text("The service answered with status 502.It gave no reason.")
    page.get_by_role("button", name="Try again").click()
    expect(best(page)).to_have_text("a dog runs through the grass")
    expect(wrong).to_have_count(0)

    page.route("**/caption?*", lambda route: route.abort())
    upload(page, photographs[2])
    expect(wrong).to_contain_text("The service cannot be reached.")


def test_a_busy_service_is_asked_again_when_it_says_so(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    service.refuse(429, "overloaded", "Too much to do", "the queue is full", retry_after="1")
    service.refuse(503, "not_ready", "Starting", "the model loads", retry_after="1")
    upload(page, photographs[0])
    state = page.locator(".state")
    expect(state).to_have_text("The service is busy. Trying again in 1 s.")
    expect(state).to_have_text("The service is not ready yet. Trying again in 1 s.")
    expect(best(page)).to_have_text("a dog runs through the grass")
    assert len(service.asked) == 3


def test_a_service_that_wants_minutes_is_not_waited_for(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    service.refuse(429, "rate_limited", "Too many requests", "wait", retry_after="3600")
    upload(page, photographs[0])
    expect(page.locator(".state.wrong")).to_contain_text("Too many requests.")
    assert len(service.asked) == 1


def test_a_key_is_asked_for_only_where_one_is_needed(
    page: Page, service: Any, photographs: list[Path]
) -> None:
    expect(page.locator("#key-form")).to_be_hidden()
    service.key = "secret"
    upload(page, photographs[0])
    field = page.get_by_label("This service asks for an API key")
    expect(field).to_be_focused()
    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not know this key")
    field.fill("secret")
    field.press("Enter")
    expect(best(page)).to_have_text("a dog runs through the grass")
    expect(page.locator("#key-form")).to_be_hidden()
    assert service.asked[-1]["headers"]["authorization"] == "Bearer secret"


def file_chooser_by_key(page: Page) -> FileChooser:
    """Press Enter until the browser opens its chooser; a busy machine may lose the first."""
    for attempt in range(3):
        try:
            with page.expect_file_chooser(timeout=5000) as choosing:
                page.keyboard.press("Enter")
            return choosing.value
        except playwright.TimeoutError:
            if attempt == 2:
                raise
    raise AssertionError


def test_everything_works_from_the_keyboard(page: Page, photographs: list[Path]) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="API")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose photographs")).to_be_focused()
    choosing = file_chooser_by_key(page)
    choosing.set_files(str(photographs[0]))
    expect(best(page)).to_have_count(1)
    for _ in range(9):  # camera, three examples, two sliders, More, Remove, the words as one stop
        page.keyboard.press("Tab")
    expect(best(page).get_by_role("button", name="a", exact=True)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".looked")).to_contain_text("“dog”: mostly at the upper centre")
    assert shade(page, 1, 0) < 20
    page.keyboard.press("End")
    expect(best(page).get_by_role("button", name="grass")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy caption 1")).to_be_focused()
    expect(page.locator(".frame.lit")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".frame.lit")).to_have_count(0)


def test_the_real_service_and_the_page_understand_each_other(
    browser: Browser, live: Any, tiny_checkpoint: Path, tmp_path: Path, photographs: list[Path]
) -> None:
    import captioner

    wanted = captioner.load(tiny_checkpoint).captions(photographs[:1], num_captions=3)[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photographs[0].read_bytes()[:300])
    for page in opened(browser, live.url):
        upload(page, photographs[0], broken)
        words = page.locator(".caption .words")
        expect(words).to_have_text([caption.text for caption in wanted], timeout=60_000)
        words.first.get_by_role("button").first.hover()
        expect(page.locator(".frame.lit")).to_be_visible()
        assert shade(page, -0.45, 1) > 180  # outside the square in the middle that the model saw
        expect(page.locator(".state.wrong")).to_contain_text("The image cannot be decoded.")
    for page in opened(browser, live.url, java_script_enabled=False):
        upload(page, photographs[0])
        page.get_by_role("button", name="Caption it").click()
        expect(page.locator("body")).to_contain_text(f'"caption":"{wanted[0].text}"')


PREFIX = "/captions-service"


@pytest.fixture(scope="module")
def behind_prefix() -> Iterator[str]:
    """The address of a service behind a proxy that strips a prefix."""
    from serving.app import create_app
    from serving.settings import Settings

    app = create_app(Settings())

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(PREFIX + "/"):
            await PlainTextResponse("not for the service", 404)(scope, receive, send)
            return
        path = scope.get("path", "").removeprefix(PREFIX)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    config = uvicorn.Config(proxy, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}{PREFIX}/"
    server.should_exit = True
    thread.join(10)


def test_the_documents_are_shown_from_the_package_alone_behind_a_prefix(
    browser: Browser, behind_prefix: str
) -> None:
    for page in opened(browser, behind_prefix):
        page.get_by_role("link", name="API").click()
        expect(page).to_have_url(behind_prefix + "docs")
        expect(page.locator("h1")).to_contain_text("Caption service")
        described = page.request.get(behind_prefix + "openapi.json").json()["paths"]
        expect(page.locator(".opblock")).to_have_count(sum(map(len, described.values())))
        page.get_by_role("button", name="Which version this is").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        answer = page.locator(".live-responses-table")
        expect(answer).to_contain_text('"name": "captioner"')
        expect(page.locator(".request-url")).to_contain_text(behind_prefix + "version")
        link = page.get_by_role("link", name="the problems")  # opens another tab
        assert link.evaluate("link => link.href") == behind_prefix + "problems"
    for page in opened(browser, behind_prefix):
        told = page.evaluate("""async () => {
            const answers = [];
            for (const path of ["nothing", "caption", "admin/reload", "a/b/c"]) {
                const answer = await fetch(path, {method: "POST", body: "x"});
                const type = new URL((await answer.json()).type, answer.url);
                answers.push([type.href, (await fetch(type)).status]);
            }
            return answers;
        }""")
        assert [status for _, status in told] == [200] * 4
        assert all(type_.startswith(behind_prefix + "problems#") for type_, _ in told), told


def test_a_browser_without_scripts_can_still_send_a_photograph(
    browser: Browser, service: Any, photographs: list[Path]
) -> None:
    for page in opened(browser, service.url, java_script_enabled=False):
        upload(page, photographs[0])
        page.get_by_role("button", name="Caption it").click()
        expect(page.locator("body")).to_contain_text("a dog runs through the grass")
        (asked,) = service.asked
        assert asked["headers"]["content-type"].startswith("multipart/form-data")
        assert b'name="image"; filename="photograph_0.jpg"' in asked["body"]
        assert b'name="num_captions"' in asked["body"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (320, 640)], ids=["desk", "phone"])
def test_the_page_is_accessible_and_fits(
    browser: Browser, service: Any, photographs: list[Path], scheme: str, size: tuple[int, int]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": size[0], "height": size[1]}
    for page in opened(browser, service.url, color_scheme=scheme, viewport=viewport):
        upload(page, photographs[0])
        expect(best(page)).to_have_count(1)
        service.refuse(415, "unsupported_format", "The format is unknown", "send JPEG")
        upload(page, photographs[1])
        expect(page.locator(".state.wrong")).to_be_visible()
        page.locator("#key-form").evaluate("form => { form.hidden = false }")
        best(page).get_by_role("button", name="dog").click()
        page.get_by_text("More", exact=True).click()
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert page.evaluate(FIND_CUT_OFF) == []
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (brightness > 600) == (scheme == "light")
