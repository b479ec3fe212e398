"""Check a manifest for Kubernetes against the definitions of the resources that it creates.

A cluster refuses what does not fit its custom resource definitions, and silently drops a field that
is not in them unless it is asked to be strict. This is as strict, without a cluster:

    kubectl get crd inferenceservices.serving.kserve.io -o yaml > kserve_crd.yaml
    python scripts/check_manifest.py deploy/kserve.yaml --crd kserve_crd.yaml

`--crd` takes several files. A resource that none of them defines is a mistake too. The exit status
is 1 where there are mistakes, and each has a line.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

from captioner.errors import DataError
from captioner.program import run_program

MISTAKES = 1  # exit status
INT_OR_STRING = "x-kubernetes-int-or-string"
PRESERVES = "x-kubernetes-preserve-unknown-fields"

Kind = tuple[str, str]  # apiVersion, kind


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path, help="YAML file of one resource or several")
    parser.add_argument(
        "--crd", type=Path, nargs="+", required=True, help="YAML files of their definitions"
    )
    given = parser.parse_args(argv)
    return run_program("check_manifest.py", lambda: check(given.manifest, given.crd))


def check(manifest: Path, definitions: Sequence[Path]) -> int:
    """Print each mistake in the manifest and return the exit status."""
    schemas: dict[Kind, Any] = {}
    for path in definitions:
        for definition in documents(path):
            schemas.update(schemas_of(definition, path))
    resources = documents(manifest)
    found = [mistake for resource in resources for mistake in mistakes(resource, schemas)]
    for mistake in found:
        print(f"{manifest}: {mistake}")
    if not found:
        print(f"{manifest}: {len(resources)} of {len(resources)} resources fit")
    return MISTAKES if found else 0


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the resources in a YAML file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        found = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        raise DataError(f"{path} cannot be read as YAML: {reason}; give another file") from None
    if not found or not all(isinstance(one, dict) and "kind" in one for one in found):
        raise DataError(f"{path} holds no resources of Kubernetes; give another file")
    return found


def schemas_of(definition: dict[str, Any], path: Path) -> dict[Kind, Any]:
    """Return the schema of each version that a CustomResourceDefinition defines, made strict.

    Raises:
        DataError: it is no such definition.
    """
    try:
        spec = definition["spec"]
        return {
            (f"{spec['group']}/{version['name']}", spec["names"]["kind"]): strict(
                version["schema"]["openAPIV3Schema"]
            )
            for version in spec["versions"]
        }
    except (KeyError, TypeError):
        kind = definition.get("kind")
        raise DataError(
            f"{path} holds a {kind!r}, no CustomResourceDefinition of apiextensions.k8s.io/v1; "
            "give the definition's file"
        ) from None


def mistakes(resource: dict[str, Any], schemas: dict[Kind, Any]) -> Iterator[str]:
    """Yield a line for each way in which a resource does not fit its definition."""
    kind = str(resource.get("apiVersion")), str(resource["kind"])
    schema = schemas.get(kind)
    if schema is None:
        known = ", ".join(" ".join(one) for one in schemas)
        yield f"{' '.join(kind)} is not defined; the definitions are of {known}"
        return
    for error in sorted(
        Draft4Validator(schema).iter_errors(resource), key=lambda one: one.json_path
    ):
        yield f"{error.json_path.removeprefix('$.')}: {error.message[:300]}"


def strict(schema: Any) -> Any:
    """Return the JSON schema of a definition's structural one: unknown fields are errors.

    What Kubernetes adds to JSON schema becomes what means the same: a value that may be null, one
    that is a number or text, an object whose other fields are kept.
    """
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = deepcopy({key: one for key, one in schema.items() if not key.startswith("x-")})
    for key in ("items", "additionalProperties", "not", "anyOf", "allOf", "oneOf"):
        if key in made:
            made[key] = strict(made[key])
    if "properties" in made:
        made["properties"] = {name: strict(one) for name, one in made["properties"].items()}
        # Only of a schema with a type: inside anyOf and the like there are conditions on fields.
        if "type" in made and "additionalProperties" not in made and not schema.get(PRESERVES):
            made["additionalProperties"] = False
    if schema.get(INT_OR_STRING):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if made.pop("nullable", False):
        return {"anyOf": [made, {"type": "null"}]}
    return made


if __name__ == "__main__":
    sys.exit(main())
