"""The application's OpenAPI document: FastAPI's, completed by what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from agentflow.serve import wire

_ERRORS = {
    "400": "The request is wrong; nothing was done.",
    "401": "No key, or an unknown one.",
    "403": "The key may not do this.",
    "404": "There is no such thing.",
    "409": "It exists and differs, or has ended.",
    "413": "The body is over the limit.",
    "422": "The definition or the input is invalid; `errors` lists every place.",
    "429": "A bounded queue is full; see Retry-After.",
    "501": "A documented feature that this version does not have yet.",
    "503": "The store or the supervisor cannot be reached now; see Retry-After.",
}
_ALWAYS = ("401", "503")
_OPEN = ("/health", "/ready")
_WRITES = ("400", "403", "409", "413", "429")


def described(app: FastAPI) -> None:
    """Make `app.openapi()` the completed document; it is made once."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """Bodies that the routes read themselves, problems on every operation, and no trace of FastAPI's own error shape."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models = [(model, "validation") for model in (*wire.ASKED, wire.Problem)]
    _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas.update(made.get("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            answers.pop("422", None)
            for status in _problems_of(path, method):
                answers[status] = _problem(status)
            operation["responses"] = dict(sorted(answers.items()))
    return document


def _problems_of(path: str, method: str) -> list[str]:
    if path in _OPEN:
        return ["503"] if path == "/ready" else []
    statuses = list(_ALWAYS)
    if method in ("post", "put"):
        statuses += _WRITES
    if "{" in path or path == "/v1/executions":
        statuses += ["400", "404"]
    if method in ("post", "put") and not path.endswith("/cancel"):
        statuses += ["422", "501"]
    if path.endswith("/events"):
        statuses.append("429")
    return statuses


def _problem(status: str) -> dict[str, Any]:
    return {
        "description": _ERRORS[status],
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
