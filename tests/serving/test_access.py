"""Access: declared by every route, kept by keys, rates and the rules for other origins."""

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from captioner.errors import CheckpointError
from serving.access import Access, declared_access
from serving.app import create_app
from serving.settings import Settings

from .conftest import jpeg, problem, service_with
from .fake_model import FakeModel, hash_of

PHOTO = jpeg()
FORM = {"image": ("a.jpg", PHOTO, "image/jpeg")}
APP = {"Origin": "http://app.example"}
ADMIN = {"/admin/reload"}
KEY = {
    "/caption",
    "/captions",
    "/model/predict",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{model}",
    "/v2/models/captioner/infer",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
}


def test_every_route_declares_who_may_ask() -> None:
    app = create_app(Settings())
    found = {route.path: declared_access(route) for route in app.routes}
    assert [path for path, access in found.items() if access is None] == []
    assert {path for path, access in found.items() if access is Access.KEY} == KEY
    assert {path for path, access in found.items() if access is Access.ADMIN} == ADMIN


def forgotten(_: Request) -> PlainTextResponse:
    return PlainTextResponse("secret")


@pytest.mark.parametrize("path", ["/forgotten", "/version"])
def test_a_route_that_declares_nothing_is_closed(path: str, model: FakeModel) -> None:  # noqa: ARG001
    settings = Settings.from_environment({}, api_keys="a-key", checkpoint=Path("."))
    app = create_app(settings)
    app.router.routes.insert(0, Route(path, forgotten, methods=["POST"]))
    assert declared_access(app.routes[0]) is None
    with TestClient(app) as client:
        for method in ("POST", "GET", "HEAD", "OPTIONS", "PUT"):
            assert client.request(method, path).status_code == 401, method
        assert client.post(path, headers={"X-API-Key": "a-key"}).text == "secret"


def test_whatever_is_not_open_needs_a_key_where_there_are_keys(model: FakeModel) -> None:  # noqa: ARG001
    with service_with(api_keys="a-key") as client:
        for path in ("/nothing", "/caption/", "/CAPTION", "/docs/", "/%2e%2e/etc/passwd"):
            assert problem(client.get(path)) == (401, "unauthorized")
            assert client.get(path, headers={"X-API-Key": "a-key"}).status_code == 404
        for method in ("GET", "HEAD", "OPTIONS", "DELETE"):
            assert client.request(method, "/caption").status_code == 401
        assert client.head("/version").status_code == 200
        assert client.options("/version").status_code == 204
        assert client.delete("/version").status_code == 405


def test_keys_in_a_file_are_asked_for_as_those_in_the_settings_are(
    model: FakeModel,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    (tmp_path / "keys").write_text("filed-key\n")
    with service_with(api_keys_file=tmp_path / "keys") as client:
        assert client.get("/v1/models").status_code == 401
        for path, method in (("/v1/models", "GET"), ("/admin/reload", "POST")):
            answer = client.request(method, path, headers={"X-API-Key": "filed-key"})
            assert answer.status_code == 200


def test_a_key_is_looked_for_before_the_body_is_read(model: FakeModel) -> None:  # noqa: ARG001
    with service_with(api_keys="a-key", body_limit_bytes=2000) as client:
        assert client.post("/caption", headers={"Content-Length": "5000"}).status_code == 401
        assert client.post("/caption", content=b"x" * 5000).status_code == 401


def test_keys_open_what_costs_work_and_nothing_else_needs_one(model: FakeModel) -> None:  # noqa: ARG001
    keys = {"api_keys": "first-key,second-key"}
    with service_with(**keys) as client:
        for path in (
            "/",
            "/health/ready",
            "/version",
            "/docs",
            "/problems",
            "/openapi.json",
            "/metrics",
        ):
            assert client.get(path).status_code == 200
        for headers in (
            {},
            {"X-API-Key": "third"},
            {"Authorization": "Bearer "},
            {"X-API-Key": b"\xe9"},
        ):
            answer = client.post("/caption", files=FORM, headers=headers)
            assert problem(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for headers in ({"X-API-Key": "second-key"}, {"Authorization": "bearer first-key"}):
            assert client.post("/caption", files=FORM, headers=headers).status_code == 200
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.post("/model/predict", files=FORM).status_code == 401
        assert "security" in client.get("/openapi.json").json()["paths"]["/caption"]["post"]


def test_a_path_with_a_control_character_is_none(model: FakeModel) -> None:  # noqa: ARG001
    """Starlette's patterns end with `$`, which a line feed may follow."""
    with service_with() as client:
        for path in ("/metrics", "/caption", "/v2/models/captioner/infer", "/page.js"):
            for end in ("%0A", "%0a", "%00", "%7F", "%0D%0A"):
                method = "GET" if path in ("/metrics", "/page.js") else "POST"
                answer = client.request(method, path + end, files=FORM if method == "POST" else {})
                assert answer.status_code == 404, path + end


def test_the_keys_that_are_needed_stand_in_the_openapi_document(
    model: FakeModel,  # noqa: ARG001
) -> None:
    def guarded(**keys: str) -> tuple[bool, list[str]]:
        with service_with(**keys) as client:
            schema = client.get("/openapi.json").json()
        return "securitySchemes" in schema["components"], [
            path
            for path in ("/caption", "/admin/reload", "/version")
            if "security" in next(iter(schema["paths"][path].values()))
        ]

    assert guarded() == (False, [])
    assert guarded(api_keys="a-key") == (True, ["/caption", "/admin/reload"])
    assert guarded(admin_keys="a-key") == (True, ["/admin/reload"])


def test_what_is_refused_early_is_counted_for_its_route(model: FakeModel) -> None:  # noqa: ARG001
    with service_with(api_keys="one,two", rate_limit="1/minute", body_limit_bytes=9000) as client:
        for status, key, content in (
            (401, "three", PHOTO),
            (413, "one", b"x" * 9001),
            (429, "one", PHOTO),
            (200, "two", PHOTO),
        ):
            answer = client.post("/caption", content=content, headers={"X-API-Key": key})
            assert answer.status_code == status
        counted = client.get("/metrics").text
    for status in (401, 413, 429, 200):
        name = f'method="POST",route="/caption",status="{status}"'
        assert f"http_requests_total{{{name}}} 1.0" in counted
    assert 'route="none"' not in counted


def test_the_model_is_reloaded_with_a_key_only(model: FakeModel) -> None:
    with service_with() as client:
        assert problem(client.post("/admin/reload")) == (401, "unauthorized")
    with service_with(api_keys="a-key", admin_keys="admin-key") as client:
        assert client.post("/admin/reload", headers={"X-API-Key": "a-key"}).status_code == 401
        before = model.generation
        done = client.post("/admin/reload", headers={"X-API-Key": "admin-key"})
        assert done.json()["model"]["hash"] == hash_of(before + 1)
        assert done.json()["before"]["hash"] == hash_of(before)
        model.load_error = CheckpointError("hashes.json is missing")
        failed = client.post("/admin/reload", headers={"X-API-Key": "admin-key"})
        assert problem(failed) == (503, "reload_failed")
        assert "hashes.json is missing; the old model serves on" in failed.json()["detail"]
        answer = client.post("/caption", files=FORM, headers={"X-API-Key": "a-key"})
        assert answer.json()["model"]["hash"] == hash_of(before + 1)


def test_the_rate_is_counted_for_each_client(model: FakeModel) -> None:  # noqa: ARG001
    with service_with(rate_limit="2/minute", api_keys="one,two") as client:
        one, two = {"X-API-Key": "one"}, {"X-API-Key": "two"}
        assert [client.get("/v1/models", headers=one).status_code for _ in "abc"] == [200, 200, 429]
        answer = client.post("/caption", files=FORM, headers=one)
        assert problem(answer) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.post("/caption", files=FORM, headers=two).status_code == 200
        assert client.get("/version").status_code == 200


def test_other_origins_are_let_in_only_by_name(model: FakeModel) -> None:  # noqa: ARG001
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with service_with() as client:
        assert (
            "access-control-allow-origin" not in client.options("/caption", headers=asked).headers
        )
        assert "access-control-allow-origin" not in client.post(
            "/caption", files=FORM, headers=asked
        ).headers  # fmt: skip
    with service_with(cors_origins="https://a.example") as client:
        allowed = client.options("/caption", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = client.options("/caption", headers={**asked, "Origin": "https://b.example"})
        assert (other.status_code, other.content) == (204, b"")
        assert not any(name.startswith("access-control-") for name in other.headers)


def test_a_page_of_an_allowed_origin_can_read_every_refusal(model: FakeModel) -> None:
    with service_with(
        cors_origins="http://app.example/", api_keys="a-key", body_limit_bytes=20_000
    ) as client:
        key = {**APP, "X-API-Key": "a-key"}

        def ask(status: int, method: str = "POST", path: str = "/caption", **given: Any) -> None:
            answer = client.request(method, path, **{"headers": key, **given})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "http://app.example"
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].lower()
            for name in ("retry-after", "inference-header-content-length"):
                assert name in exposed

        ask(200, files=FORM)
        ask(401, headers=APP)
        ask(401, path="/nothing", headers=APP)
        ask(404, path="/nothing")
        ask(405, method="PUT")
        ask(413, content=b"x" * 20_001)
        ask(413, content=iter([b"x" * 15_000] * 2))
        ask(415, content=b"%PDF-1.7")
        ask(422, content=b"")
        ask(422, path="/caption?beam=3", content=PHOTO)
        ask(304, "GET", "/", headers={**APP, "If-None-Match": client.get("/").headers["etag"]})
        model.places = 0
        ask(429, files=FORM)
        ask(429, path="/captions", files=FORM)
        model.reset()
        model.seconds = 30
        ask(504, files=FORM, headers={**key, "X-Request-Timeout": "0.1"})
        model.reset()
        model.caption_error = RuntimeError("a surprise")
        ask(500, files=FORM)
        model.reset()
        client.app.state.service.begin_draining()
        ask(503, files=FORM)
        other = client.post("/caption", headers={"Origin": "http://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_preflights_may_ask_for_the_headers_of_any_client(model: FakeModel) -> None:  # noqa: ARG001
    names = (
        "authorization, content-type, x-request-id, x-api-key, x-request-timeout, openai-beta, "
        "x-stainless-arch, x-stainless-lang, x-stainless-retry-count, openai-organization"
    )
    with service_with(cors_origins="http://app.example", api_keys="a-key") as client:
        asked = {**APP, "Access-Control-Request-Headers": names}
        for method in ("POST", "GET", "HEAD"):
            headers = {**asked, "Access-Control-Request-Method": method}
            answer = client.options("/v1/chat/completions", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "http://app.example"
            allowed = answer.headers["access-control-allow-headers"].lower()
            assert {name.strip() for name in names.split(",")} <= {
                name.strip() for name in allowed.split(",")
            }
            assert "x-request-id" in answer.headers
    with service_with(cors_origins="*") as client:
        assert client.get("/nothing", headers=APP).headers["access-control-allow-origin"] == "*"
