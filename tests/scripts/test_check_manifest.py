"""The check of manifests: what a cluster would refuse or drop has a line of its own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PORT = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
SCHEMA = {
    "type": "object",
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "port": PORT},
                        # A condition on fields, as on a union: it forbids no others.
                        "anyOf": [{"properties": {"name": {"minLength": 1}}}],
                    },
                },
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "replicas": {"type": "integer", "nullable": True},
                "free": {
                    "type": "object",
                    "properties": {"known": {"type": "string"}},
                    "x-kubernetes-preserve-unknown-fields": True,
                },
            },
        },
    },
}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "example.org",
        "names": {"kind": "Thing"},
        "versions": [{"name": "v1", "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}


def main(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(str(SCRIPTS))
        import check_manifest

        return check_manifest.main(arguments)


def checked(tmp_path: Path, *resources: Any, definition: Any = DEFINITION) -> int:
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(definition))
    (tmp_path / "thing.yaml").write_text(yaml.safe_dump_all(resources))
    return main(str(tmp_path / "thing.yaml"), "--crd", str(tmp_path / "crd.yaml"))


def thing(**spec: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "a"}], **spec}
    metadata = {"name": "a", "labels": {"b": "c"}}
    return {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": metadata, "spec": spec}


def test_what_fits_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = thing(
        containers=[{"name": "a", "port": 80}, {"name": "b", "port": "http"}],
        labels={"any": "name"},
        replicas=None,
        free={"unknown": 3},
    )
    assert checked(tmp_path, sound, thing()) == 0
    assert capsys.readouterr().out.endswith("thing.yaml: 2 of 2 resources fit\n")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"replica": 3}, "spec: Additional properties are not allowed ('replica' was unexpected)"),
        ({"replicas": "three"}, "spec.replicas: 'three' is not valid"),
        ({"containers": [{"name": "a"}, {}]}, "spec.containers[1]: 'name' is a required property"),
        ({"containers": [{"name": "a", "port": 1.5}]}, "spec.containers[0].port: 1.5 is not valid"),
        ({"containers": [{"name": "a", "env": []}]}, "spec.containers[0]: Additional properties"),
        ({"labels": {"a": True}}, "spec.labels.a: True is not of type 'string'"),
        ({"free": {"known": 3}}, "spec.free.known: 3 is not of type 'string'"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], line: str
) -> None:
    assert checked(tmp_path, thing(), thing(**spec)) == 1
    (found,) = capsys.readouterr().out.splitlines()
    assert f"thing.yaml: {line}" in found


def test_a_resource_without_a_definition_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, {**thing(), "apiVersion": "example.org/v2"}) == 1
    expected = "example.org/v2 Thing is not defined; the definitions are of example.org/v1 Thing\n"
    assert capsys.readouterr().out.endswith(expected)


@pytest.mark.parametrize("definition", [thing(), {**DEFINITION, "spec": {}}, ["a"], {"a": 1}])
def test_what_is_no_definition_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], definition: Any
) -> None:
    assert checked(tmp_path, thing(), definition=definition) == 2
    assert "crd.yaml holds" in capsys.readouterr().err
    (tmp_path / "crd.yaml").write_text("a: [")
    assert main(str(tmp_path / "crd.yaml"), "--crd", str(tmp_path / "crd.yaml")) == 2
    assert "cannot be read as YAML" in capsys.readouterr().err
