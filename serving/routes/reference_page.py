"""`/docs`: the interface as a plain page, made from `/openapi.json`.

It needs no script and nothing from another host, so it reads the same behind a firewall and under a
strict policy. Every `type` of a problem leads to the entry of its code here.
"""

import html
import json
from collections.abc import Iterator
from typing import Any

from serving.problems import KINDS

STYLE_NAME = "reference.css"
STYLE = """\
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
pre { overflow-x: auto; padding: .75rem; background: #8882; border-radius: .25rem; }
code { font-family: ui-monospace, monospace; }
:target { outline: 3px solid #48f; }
"""


def reference_page(schema: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info = schema["info"]
    body = "".join(
        section
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
        for section in _operation(schema, path, method, operation)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(info['title'])}</title>"
        f'<link rel="stylesheet" href="/{STYLE_NAME}"></head><body><main>'
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f"<p>{_text(info.get('description', ''))} "
        'The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{body}{_errors()}</main></body></html>"
    )


def _operation(
    schema: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f'<section><h2 id="{_text(operation["operationId"])}">'
    yield f"<code>{method.upper()} {_text(path)}</code></h2>"
    yield f"<p><strong>{_text(operation.get('summary', ''))}.</strong> "
    yield f"{_text(operation.get('description', ''))}</p>"
    yield from _parameters(operation.get("parameters", []))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body <code>{_text(kind)}</code></h3>"
        shown = content.get("example") or _sample(schema, content.get("schema", {}))
        yield f"<pre>{_text(shown)}</pre>"
    for status, response in operation["responses"].items():
        yield f"<h3>{_text(status)}</h3><p>{_text(response.get('description', ''))}</p>"
        for content in response.get("content", {}).values():
            if status.startswith("2"):
                shown = content.get("example") or _sample(schema, content.get("schema", {}))
                yield f"<pre>{_text(shown)}</pre>"
    yield "</section>"


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[str]:
    if not parameters:
        return
    yield "<table><tr><th>Option</th><th>Where</th><th>Value</th><th>Meaning</th></tr>"
    for one in parameters:
        kind = one["schema"]
        values = kind.get("type", "number")
        if "maximum" in kind:
            values = f"{values} {kind.get('minimum', '')}–{kind['maximum']}"
        default = f", default {json.dumps(kind['default'])}" if "default" in kind else ""
        yield f"<tr><td><code>{_text(one['name'])}</code></td><td>{_text(one['in'])}</td>"
        yield f"<td>{_text(values + default)}</td>"
        yield f"<td>{_text(one.get('description', kind.get('description', '')))}</td></tr>"
    yield "</table>"


def _errors() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td>'
        f"<td>{_text(kind.title)}</td><td>{_text(kind.advice)}</td></tr>"
        for code, kind in KINDS.items()
    )
    head = "<tr><th>Code</th><th>Status</th><th>What happened</th><th>What to do</th></tr>"
    return f'<section><h2 id="errors">Errors</h2><table>{head}{rows}</table></section>'


def _sample(schema: dict[str, Any], part: dict[str, Any]) -> Any:
    """Return a value such as `part` of the schema describes, from its examples."""
    if "$ref" in part:
        return _sample(schema, schema["components"]["schemas"][part["$ref"].rpartition("/")[2]])
    for key in ("example", "default", "const"):
        if key in part:
            return part[key]
    if part.get("examples"):
        return part["examples"][0]
    if variants := part.get("anyOf") or part.get("oneOf"):
        return _sample(schema, variants[0])
    if part.get("type") == "object":
        return {name: _sample(schema, one) for name, one in part.get("properties", {}).items()}
    if part.get("type") == "array":
        return [_sample(schema, part.get("items", {}))]
    return {"integer": 1, "number": 0.5, "boolean": True}.get(part.get("type", ""), "…")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        value = json.dumps(value, indent=1, ensure_ascii=False)
    return html.escape(value)
