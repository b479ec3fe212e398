"""The stress script without a service: what it sends, what it takes for sane, what it refuses."""

import asyncio
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def script() -> ModuleType:
    """The script, with the package that it imports beside it."""
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(str(SCRIPTS))
        import stress_serving

        return stress_serving


def test_mutations_can_be_made_again() -> None:
    from stress.hostile_images import bombs, mutation, originals

    cases = originals()
    made = [mutation(3, index, cases) for index in range(40)]
    assert made == [mutation(3, index, cases) for index in range(40)]
    assert len({data for _, data in made}) > 35
    assert made != [mutation(4, index, cases) for index in range(40)]
    assert max(map(len, bombs().values())) < 10 << 20


def test_every_picture_and_attack_is_told_from_the_others() -> None:
    from stress.attacks import attacks
    from stress.client import photographs

    pictures = photographs(450)
    assert len({one.size for one in pictures}) == 450
    names = set(attacks(pictures[0].data))
    assert len(names) > 300
    assert {"POST /caption", "GET /docs", "GET /nothing"} <= names


def test_what_is_wrong_with_an_answer_is_seen() -> None:
    from stress.attacks import Effect, is_sane

    answer = b"HTTP/1.1 422 X\r\nContent-Type: application/problem+json\r\n\r\n{}"
    assert is_sane("GET /", Effect((422,), answer, 1.0))
    assert is_sane("GET /", Effect((), b"", 1.0))
    assert not is_sane("GET /", Effect((422,), answer, 31.0))
    assert not is_sane("GET /", Effect((500,), answer, 1.0))
    assert not is_sane("GET /", Effect((422,), answer + b"Traceback", 1.0))
    assert not is_sane("GET /", Effect((422,), answer.replace(b"json", b"text"), 1.0))


def test_a_report_is_met_when_every_demand_is() -> None:
    from stress import Report
    from stress.client import percentile

    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    report = Report("x")
    assert not report.is_met
    report.demand("a", 1, True)
    assert report.is_met
    report.demand("b", 2, False)
    assert not report.is_met
    assert report.to_json()["demands"][1]["is_met"] is False


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("nothing", "--checkpoint", "x"),
            "there is no scenario 'nothing'; choose from overload, ",
        ),
        ((), "give either --checkpoint, or --url with --pid"),
        (("slow", "--url", "http://localhost:1"), "--url needs --pid"),
        (("terminate", "--url", "http://x", "--pid", "1"), "terminate needs a service of its own"),
        (("soak", "--rate", "0", "--checkpoint", "x"), "--rate is 0.0; it must be above 0"),
        (("slow", "--checkpoint", "/nowhere"), "the service does not start: error: checkpoint is"),
    ],
)
def test_bad_commands_are_one_line(
    argv: tuple[str, ...],
    message: str,
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"stress_serving.py: {message}")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not say when bytes came")
def test_an_answer_is_timed_by_the_kernel_and_not_by_when_a_busy_client_sees_it() -> None:
    from stress.client import ask

    asked, is_busy = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                asked.set()
                is_busy.wait(10)
                connection.sendall(b"HTTP/1.1 429 X\r\ncontent-length: 2\r\n\r\nno")

        server = threading.Thread(target=answer)
        server.start()

        async def busy_client():
            asking = asyncio.create_task(ask(listener.getsockname(), b"photograph"))
            while not asked.is_set():
                await asyncio.sleep(0)
            is_busy.set()
            time.sleep(1.0)  # it does not get to the answer that is there
            return await asking

        exchange = asyncio.run(busy_client())
    assert exchange.status == 429
    assert exchange.seconds >= 0.9
    assert exchange.arrived <= exchange.seconds - 0.5
