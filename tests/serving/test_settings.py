"""The settings: what is set where, what counts more, and how bad ones are named."""

import hashlib
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from uvicorn.middleware.proxy_headers import _TrustedHosts

from captioner import cores as cores_module
from captioner.errors import OptionError
from serving.__main__ import build_parser, listen, main
from serving.settings import Settings, is_loopback, unknown_variables

A_KEY = hashlib.sha256(b"first-key").digest()


def test_every_setting_has_a_flag_and_a_variable_of_the_same_name() -> None:
    text = " ".join(build_parser("serving").format_help().split())
    for one in fields(Settings):
        assert f"--{one.name.replace('_', '-')}" in text, one.name
    values = {"CAPTIONER_MAX_BATCH": "3", "CAPTIONER_AVIF": "yes", "CAPTIONER_BATCH_WINDOW_MS": "1"}
    settings = Settings.from_environment(values)
    assert (settings.max_batch, settings.avif, settings.batch_window_ms) == (3, True, 1.0)


def test_a_flag_counts_more_than_a_variable() -> None:
    settings = Settings.from_environment({"CAPTIONER_PORT": "1000"}, port="2000")
    assert settings.port == 2000
    assert Settings.from_environment({"CAPTIONER_PORT": ""}).port == 8000


def test_all_bad_settings_are_named_at_once() -> None:
    environ = {
        "CAPTIONER_PORT": "http",
        "CAPTIONER_WORKERS": "0",
        "CAPTIONER_AVIF": "perhaps",
        "CAPTIONER_RATE_LIMIT": "often",
        "CAPTIONER_RECEIVE_TIMEOUT_SECONDS": "nan",
        "CAPTIONER_LOG_LEVEL": "loud",
        "CAPTIONER_CHECKPOINT": "/there/is/no/such/folder",
    }
    with pytest.raises(OptionError) as caught:
        Settings.from_environment(environ)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == len(environ)
    for words in (
        "CAPTIONER_PORT is 'http'; give a whole number",
        "CAPTIONER_WORKERS is 0; give a number from 1 to 256",
        "CAPTIONER_AVIF is 'perhaps'; give true or false",
        "rate_limit is 'often'; give requests per time, such as 60/minute",
        "CAPTIONER_RECEIVE_TIMEOUT_SECONDS is nan; it must be a finite number",
        "CAPTIONER_LOG_LEVEL is 'loud'; it can be debug or info or warning or error",
        "checkpoint is '/there/is/no/such/folder', where there is no folder",
    ):
        assert words in problems


def test_keys_are_kept_as_hashes_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# two\nsecond-key\nsha256:{A_KEY.hex()}\n")
    environ = {"CAPTIONER_API_KEYS": "first-key", "CAPTIONER_API_KEYS_FILE": str(file)}
    settings = Settings.from_environment(environ)
    assert settings.keys == (A_KEY, hashlib.sha256(b"second-key").digest(), A_KEY)
    assert "first-key" not in repr(settings)
    with pytest.raises(OptionError) as caught:
        Settings.from_environment({"CAPTIONER_API_KEYS": "my secret"})
    assert "secret" not in str(caught.value)
    assert "a key is 1 to 256 printable ASCII characters" in str(caught.value)
    file.write_text("\n")
    with pytest.raises(OptionError, match="it holds no key"):
        Settings.from_environment({"CAPTIONER_API_KEYS_FILE": str(file)})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "captions.example.org"])
def test_a_public_address_needs_keys_or_a_word(host: str) -> None:
    with pytest.raises(OptionError, match="which others can reach, and there are no keys"):
        Settings(host=host)
    assert Settings(host=host, no_auth=True).host == host
    assert Settings.from_environment({"CAPTIONER_API_KEYS": "k"}, host=host).has_keys
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert not Settings(host=host).has_keys


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cors_origins": ("*", "https://a.example")}, "cors_origins holds '\\*' and others"),
        ({"cors_origins": ("a.example",)}, "an origin looks like https://example.org"),
        ({"cors_origins": ("null",)}, "holds 'null'; an origin looks like https://example.org"),
        ({"cors_origins": ("https://a.example/x",)}, "an origin has no path; leave out what"),
        ({"cors_origins": ("https://a.example?",)}, "an origin has no path; leave out what"),
        ({"cors_origins": ("https://*.example",)}, "an origin looks like https://example.org"),
        ({"cors_origins": ("https://u@a.example",)}, "an origin looks like https://example.org"),
        ({"cors_origins": ("https://a.example:70000",)}, "an origin looks like"),
        ({"trusted_proxies": ("*", "10.0.0.5")}, "trusted_proxies holds '\\*' and others; give"),
        ({"trusted_proxies": ("::ffff:10.0.0.5",)}, "give IPv4 as IPv4"),
        ({"trusted_proxies": ("::ffff:10.0.0.0/104",)}, "give IPv4 as IPv4"),
        ({"tracing_endpoint": "collector"}, "it looks like http://collector:4318/v1/traces"),
        ({"tracing_endpoint": "httpx"}, "it looks like http://collector:4318/v1/traces"),
        ({"tracing_endpoint": "http:"}, "it looks like http://collector:4318/v1/traces"),
        ({"tracing_endpoint": "http://a:port/"}, "it looks like http://collector:4318/v1/traces"),
        ({"rate_limit": "0/minute"}, "give requests per time, such as 60/minute"),
        ({"rate_limit": "5/0 minute"}, "give requests per time, such as 60/minute"),
        ({"rate_limit": "5 per 99999999999999999999 years"}, "give requests per time"),
        ({"device": "foo"}, "device is 'foo'; give auto, cpu, cuda or cuda:N"),
        ({"engine": "foo"}, "engine is 'foo'; choose one of torch, onnxruntime, openvino"),
        ({"no_auth": True, "api_keys": (A_KEY,)}, "no_auth is set and so are keys"),
    ],
)
def test_contradictions_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Settings(**given)


def test_what_is_right_is_taken() -> None:
    for rate in ("60/minute", "1000 per day", "10/second;500/hour", "20 per 5 minutes", "100/day"):
        assert Settings(rate_limit=rate).rate_limit == rate
    for device in ("auto", "cpu", "cuda", "cuda:10", "mps"):
        assert Settings(device=device).device == device


def test_commas_alone_are_no_list() -> None:
    """A list of keys without a key would open the service."""
    for name in ("API_KEYS", "ADMIN_KEYS", "CORS_ORIGINS", "TRUSTED_PROXIES"):
        with pytest.raises(OptionError, match=f"CAPTIONER_{name} is .*nothing between them"):
            Settings.from_environment({f"CAPTIONER_{name}": " , ,"})
    assert Settings.from_environment({"CAPTIONER_API_KEYS": "k,"}).has_keys


def test_every_bad_proxy_is_named_and_those_that_are_trusted_are_taken() -> None:
    """uvicorn keeps what it does not understand, and never compares a client with it."""
    bad = ("10.0.0.5/8", "foo", "300.1.1.1", "10.0.0.0/33", "fd00::1/8", "10.0.0.5:80", "[::1]")
    given = ",".join(("10.0.0.5", *bad, "10.0.0.0/8"))
    with pytest.raises(OptionError) as caught:
        Settings.from_environment({"CAPTIONER_TRUSTED_PROXIES": given})
    assert len(caught.value.problems) == len(bad)
    for one, problem in zip(bad, caught.value.problems, strict=True):
        assert problem.startswith(f"trusted_proxies holds {one!r}; give ")
        assert _TrustedHosts([one]).trusted_literals == {one}

    good = ("10.0.0.5", "10.0.0.0/8", "172.16.0.0/12", "::1", "fd00::/8", "0.0.0.0/0")
    settings = Settings.from_environment({"CAPTIONER_TRUSTED_PROXIES": ", ".join(good)})
    assert settings.trusted_proxies == good
    assert _TrustedHosts(list(good)).trusted_literals == set()
    assert Settings(trusted_proxies=("*",)).trusted_proxies == ("*",)


@pytest.mark.parametrize(
    ("given", "as_sent"),
    [
        ("https://app.example/", "https://app.example"),
        ("HTTPS://App.Example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:8080", "http://app.example:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("*", "*"),
    ],
)
def test_origins_are_taken_as_browsers_send_them(given: str, as_sent: str) -> None:
    environ = {"CAPTIONER_CORS_ORIGINS": given}
    assert Settings.from_environment(environ).origins == (as_sent,)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_cores_are_those_of_the_quota_in_both_forms_of_control_groups(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores_module, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores_module.available_cores() == cores


def test_a_check_loads_the_model_and_listens_to_nothing(
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.__main__.listen", pytest.fail)
    assert main(["--check", "--checkpoint", str(tiny_checkpoint.parent)]) == 0
    assert capsys.readouterr().out.startswith(f"{tiny_checkpoint}: tiny, ")

    damaged = Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))
    (damaged / "decoder.safetensors").write_bytes(b"")
    assert main(["--check", "--checkpoint", str(damaged)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(damaged / "decoder.safetensors") in line


def test_misspelt_variables_are_found() -> None:
    environ = {"CAPTIONER_PROT": "1", "CAPTIONER_PORT": "1", "CAPTIONER_SHARED": "x", "HOME": "/"}
    assert unknown_variables(environ) == ["CAPTIONER_PROT"]


def test_bad_input_ends_the_program_with_a_line_each_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (["--model-nic", "3"], ["--port"], ["--no-such-flag"]):
        assert main(flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert flags[0] in line
        assert line.endswith("; --help lists the options")
    assert main(["--port", "x", "--workers", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --port is 'x'; give a whole number",
        "error: --workers is 0; give a number from 1 to 256",
    ]
    monkeypatch.setattr("captioner.checkpoint_folders.SHIPPED", tmp_path / "none")
    assert main([]) == 2
    assert "has no model of its own in" in capsys.readouterr().err
    assert main(["--checkpoint", str(tmp_path)]) == 2
    assert "holds neither model.json nor deployable.json; give" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0..1", "a" * 64, "no.such.host.invalid"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(OptionError, match=f"cannot listen on {host} port 0: .*; choose another"):
        listen(host, 0)


def test_an_address_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1 port {port}: Address"):
            listen("127.0.0.1", port)
