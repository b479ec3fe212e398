"""`docker-compose.yml` confines what it runs, fits the settings, and is understood by Compose 1.29.

Nothing here needs Docker; `scripts/compose_smoke.sh` runs it.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import MIB, PREFIX, Settings
from serving.supervisor import KILL_AFTER_SECONDS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|-|:\?)([^}]*))?\}")
OURS = ("check", "captioner", "check-gpu", "gpu", "train", "train-gpu")
SERVING = ("check", "captioner", "check-gpu", "gpu")
IDLE_MIB = 400  # what two workers take before the first request, as measured in docs/deployment.md
SIZES = {"m": MIB, "g": 1024 * MIB}

# What the schema of docker-compose 1.29.2 knows of what a service may hold (compose_spec.json).
KNOWN_TO_1_29 = {
    *("build", "cap_drop", "command", "cpus", "depends_on", "deploy", "entrypoint", "environment"),
    *("healthcheck", "image", "init", "logging", "mem_limit", "memswap_limit", "pids_limit"),
    *("ports", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size"),
    *("stop_grace_period", "tmpfs", "user", "volumes"),
}
KNOWN_OF_HEALTH = {"disable", "interval", "retries", "start_period", "test", "timeout"}


def interpolated(text: str) -> str:
    return VARIABLE.sub(lambda found: found[3] or "", text)


def services() -> dict[str, Any]:
    return yaml.safe_load(interpolated(COMPOSE_TEXT))["services"]


def size(text: str) -> int:
    return int(text[:-1]) * SIZES[text[-1]]


def test_prometheus_asks_the_services_that_there_are() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == "captioner"]
    (lookup,) = job["dns_sd_configs"]
    assert set(lookup["names"]) <= set(services())
    for name in lookup["names"]:
        (port,) = services()[name]["ports"]
        assert port.endswith(f":{lookup['port']}")


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/keys.yml"])
def test_the_older_compose_knows_all_that_is_used(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{\w+([^\w}]{1,2})", text)) <= {":-", "-", ":?"}
    content = yaml.safe_load(interpolated(text))
    top = {key for key in content if not key.startswith("x-")}
    assert top <= {"services", "volumes", "secrets"}
    for name, service in content["services"].items():
        assert set(service) <= KNOWN_TO_1_29, name
        assert set(service.get("healthcheck", {})) <= KNOWN_OF_HEALTH, name
        assert "create_host_path" not in str(service.get("volumes"))


@pytest.mark.parametrize("name", [*services()])
def test_every_container_is_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert size(service["mem_limit"])
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    assert "healthcheck" in service or name == "captioner"  # its own is in the image
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    if name in OURS:
        assert service["user"] == "10001:10001"
    else:
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_every_setting_is_passed_on_and_said_to_be() -> None:
    known = {PREFIX + one.name.upper() for one in fields(Settings)}
    gpu = {PREFIX + "DEVICE"}
    fixed = {PREFIX + name for name in ("DRAIN_SECONDS", "ENGINE", "API_KEYS_FILE")}
    for name in SERVING:
        passed = set(services()[name]["environment"])
        assert passed | fixed | gpu == known, name
        assert not passed & fixed, name
    assert all(f"`{name}`" in PAGE for name in fixed)
    # Whatever the service would stumble over, the check before it has to meet as well.
    for name in ("captioner", "gpu"):
        checked = services()[name]["depends_on"]
        (check,) = checked
        assert checked[check] == {"condition": "service_completed_successfully"}
        assert services()[check]["environment"] == services()[name]["environment"]
        assert services()[check]["image"] == services()[name]["image"]


def test_it_is_given_the_time_that_it_takes_to_drain() -> None:
    longest = Settings().drain_seconds + KILL_AFTER_SECONDS
    for name in ("captioner", "gpu"):
        assert float(services()[name]["stop_grace_period"].removesuffix("s")) > longest


def test_the_limit_of_memory_covers_what_the_other_limits_allow() -> None:
    service, settings = services()["captioner"], Settings()
    environment = service["environment"]
    workers, queue = (int(environment[PREFIX + name]) for name in ("WORKERS", "QUEUE_SIZE"))
    decoders = workers * max(1, int(service["cpus"]) // workers)
    (tmpfs,) = re.findall(r"size=(\d+m)", service["tmpfs"][0])
    needed = (
        IDLE_MIB * MIB
        + workers * queue * settings.body_limit_bytes
        + decoders * settings.decode_memory_bytes
        + size(tmpfs)
    )
    assert needed <= size(service["mem_limit"])


def test_every_variable_is_documented_with_its_default() -> None:
    table = PAGE.partition("## All variables")[2]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    defaults = {name: text for name, _, text in VARIABLE.findall(COMPOSE_TEXT)}
    assert set(documented) == set(defaults) | {"KEYS"}
    for name, default in defaults.items():
        if default and name != "CHECKPOINT":
            assert documented[name] == f"`{default}`", name
