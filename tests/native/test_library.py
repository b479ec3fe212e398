"""The compiled library: found, made, kept and done without; and the command that builds it."""

import os
import threading
from pathlib import Path

import pytest
import torch

from captioner.errors import ToolError
from captioner.lstm.backends import cpu_backend
from captioner.native import build, compilation, library
from captioner.native.compilation import DECODING, LSTM, PLAIN


@pytest.fixture
def code() -> bytes:
    """What the compiler gives for this processor."""
    try:
        library.load()
    except ToolError as problem:
        pytest.skip(str(problem))
    name = LSTM.file_name(library.instruction_set())
    places = [compilation.BUILT_AHEAD / name]
    if cache := compilation.user_cache():
        places.append(cache / name)
    return next(place for place in places if place.exists()).read_bytes()[:-32]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, code: bytes, tmp_path: Path) -> list[str]:
    """An empty cache, and a compiler that is quick; the instruction sets it was asked for."""
    asked: list[str] = []

    def compile_at_once(_: compilation.Library, wanted: compilation.InstructionSet) -> bytes:
        asked.append(wanted.name)
        return code

    monkeypatch.setattr(compilation, "_compile", compile_at_once)
    monkeypatch.setattr(compilation, "BUILT_AHEAD", tmp_path / "package" / "built")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def fresh_load() -> object:
    return library.load.__wrapped__()


def cached_file() -> Path:
    folder = compilation.user_cache()
    assert folder is not None
    return folder / LSTM.file_name(library.instruction_set())


def test_it_is_compiled_once_and_then_found(compiled: list[str]) -> None:
    fresh_load()
    assert cached_file().exists()
    fresh_load()
    assert compiled == [library.instruction_set().name]


def test_several_at_once_compile_once(compiled: list[str]) -> None:
    threads = [threading.Thread(target=fresh_load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_damaged_file_is_compiled_anew(compiled: list[str], damage: bytes | None) -> None:
    fresh_load()
    whole = cached_file().read_bytes()
    cached_file().unlink()  # not overwritten: it is mapped into this process
    cached_file().write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    fresh_load()
    assert len(compiled) == 2
    assert cached_file().read_bytes() == whole


def test_what_was_built_ahead_needs_no_compiler(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compilation.build(LSTM, library.instruction_set(), compilation.BUILT_AHEAD)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    fresh_load()
    assert len(compiled) == 1


def test_without_a_place_to_keep_it_it_is_compiled_each_time(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert compilation.user_cache() is None
    fresh_load()
    fresh_load()
    assert len(compiled) == 2


@pytest.mark.usefixtures("compiled")
def test_a_cache_that_others_can_write_to_is_not_trusted() -> None:
    fresh_load()
    os.chmod(cached_file().parent, 0o777)
    assert compilation.user_cache() is None


def test_another_source_or_instruction_set_is_another_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = {LSTM.file_name(one) for one in LSTM.instruction_sets}
    assert len(names) == len(LSTM.instruction_sets)
    (tmp_path / "changed.cpp").write_text("int changed;")
    monkeypatch.setattr(compilation, "SOURCES", tmp_path)
    compilation._fingerprint.cache_clear()
    try:
        assert LSTM.file_name(PLAIN) not in names
    finally:
        compilation._fingerprint.cache_clear()


def test_without_a_compiler_the_reason_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compilation, "BUILT_AHEAD", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    library.load.cache_clear()
    try:
        reason = cpu_backend.missing()
    finally:
        library.load.cache_clear()
    assert reason is not None
    assert "no C++ compiler was found" in reason
    assert "\n" not in reason


@pytest.mark.usefixtures("code")
def test_a_struct_whose_fields_drifted_apart_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fields = library.call_fields("hdetach_forward")
    assert fields[:5] == ("steps", "batch", "input", "hidden", "threads")
    assert fields[-2:] == ("gates", "cells")
    values = {**dict.fromkeys(fields, 1), "x": torch.ones(2), "lengths": None, "other": 3}
    struct = dict(zip(fields, library.pack_call("hdetach_forward", **values), strict=True))
    assert struct == {**dict.fromkeys(fields, 1), "x": values["x"].data_ptr(), "lengths": 0}
    del values["h0"], values["gates"]
    with pytest.raises(ToolError, match=r"of hdetach_forward has fields .* no value: h0, gates;"):
        library.pack_call("hdetach_forward", **values)
    source = (compilation.SOURCES / "attention.cpp").read_text()
    drifted = source.replace("int64_t rows, positions", "int32_t rows, positions")
    assert drifted != source
    (tmp_path / "attention.cpp").write_text(drifted)
    (tmp_path / "call.h").write_bytes((compilation.SOURCES / "call.h").read_bytes())
    monkeypatch.setattr(compilation, "SOURCES", tmp_path)
    with pytest.raises(ToolError, match=r"each field of attention must have 8 bytes"):
        compilation._compile(LSTM, PLAIN)


def test_a_compiler_that_is_not_there_or_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    with pytest.raises(ToolError, match="CXX names no-such-compiler, which is not there"):
        compilation._compile(LSTM, PLAIN)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ToolError, match="false could not compile the kernels"):
        compilation._compile(LSTM, PLAIN)


def test_every_instruction_set_compiles(
    code: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code
    assert build.main(["--into", str(tmp_path)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == [
        of.file_name(one) for of in (LSTM, DECODING) for one in of.instruction_sets
    ]
    assert all(path.stat().st_size > 10_000 for path in printed)


def test_the_command_builds_into_the_package_by_default(compiled: list[str]) -> None:
    compilation.BUILT_AHEAD.parent.mkdir()
    assert build.main([]) == 0
    assert (compilation.BUILT_AHEAD / LSTM.file_name(library.instruction_set())).exists()
    assert len(compiled) == len(LSTM.instruction_sets) + len(DECODING.instruction_sets)
    compiled.clear()
    assert build.main(["--libraries", "decoding"]) == 0
    assert len(compiled) == len(DECODING.instruction_sets)


def test_a_folder_that_cannot_be_written_is_one_line(
    compiled: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert build.main(["--into", str(tmp_path / "file" / "inside"), "--only", "plain"]) == 2
    said = capsys.readouterr()
    assert "is not a folder" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert compiled == ["plain"]


@pytest.mark.usefixtures("compiled")
def test_what_there_is_no_library_of_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--libraries", "lstm"]) == 2
    said = capsys.readouterr().err
    assert "--libraries: invalid choice: 'lstm'" in said
    assert said.count("\n") == 1
    assert build.main(["--libraries", "decoding", "--only", "plain"]) == 0
    assert capsys.readouterr().err == "there is no such kernel for this kind of processor\n"
