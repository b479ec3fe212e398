"""`deploy/kserve.yaml` fits the service: its paths, its settings, its limits, its image.

`scripts/check_manifest.py` checks its fields against KServe's definitions, where those are at hand.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.access import Access, declared_access
from serving.app import create_app
from serving.routes.open_inference import MODEL
from serving.settings import MIB, Settings, unknown_variables
from serving.supervisor import KILL_AFTER_SECONDS

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text(encoding="utf-8"))
PREDICTOR = MANIFEST["spec"]["predictor"]
(CONTAINER,) = PREDICTOR["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IDLE_MIB = 400  # as in test_compose.py
UNITS = {"Mi": MIB, "Gi": 1024 * MIB}


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.fixture
def settings() -> Settings:
    environ = {one["name"]: one["value"] for one in CONTAINER["env"]}
    of_the_image = dict(re.findall(r"(CAPTIONER_(?:HOST|PORT))=(\S+)", DOCKERFILE))
    assert unknown_variables({**of_the_image, **environ}) == []
    return Settings.from_environment({**of_the_image, **environ})


def test_kserve_takes_it_for_a_predictor_of_this_protocol() -> None:
    assert CONTAINER["name"] == "kserve-container"  # by which KServe finds the model's container
    assert {"name": "PROTOCOL", "value": "v2"} in CONTAINER["env"]
    assert MANIFEST["metadata"]["name"] == MODEL
    assert CONTAINER["image"] == "captioner:latest"
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"image: ${{CAPTIONER_IMAGE:-{CONTAINER['image']}}}" in compose


def test_its_probes_ask_open_routes_on_the_port_of_the_service(settings: Settings) -> None:
    (port,) = (one["containerPort"] for one in CONTAINER["ports"])
    assert port == settings.port
    access = {route.path: declared_access(route) for route in create_app(Settings()).routes}
    for name, path in (
        ("startupProbe", "/v2/health/ready"),
        ("readinessProbe", "/v2/health/ready"),
        ("livenessProbe", "/v2/health/live"),
    ):
        assert CONTAINER[name]["httpGet"] == {"path": path, "port": port}
        assert access[path] is Access.OPEN


def test_it_is_confined_as_by_compose() -> None:
    user = int(re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)[-1])
    pod: dict[str, Any] = PREDICTOR["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["runAsGroup"]) == (True, user, user)
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not PREDICTOR["automountServiceAccountToken"]
    (volume,) = PREDICTOR["volumes"]
    assert CONTAINER["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]


def test_its_times_and_its_memory_cover_those_of_the_service(settings: Settings) -> None:
    longest = settings.drain_seconds + KILL_AFTER_SECONDS
    assert PREDICTOR["terminationGracePeriodSeconds"] > longest
    assert PREDICTOR["timeout"] > settings.request_timeout_seconds
    limits = CONTAINER["resources"]["limits"]
    decoders = settings.workers * max(1, int(limits["cpu"]) // settings.workers)
    (volume,) = PREDICTOR["volumes"]
    needed = (
        IDLE_MIB * MIB
        + settings.workers * settings.queue_size * settings.body_limit_bytes
        + decoders * settings.decode_memory_bytes
        + size(volume["emptyDir"]["sizeLimit"])
    )
    assert needed <= size(limits["memory"])
