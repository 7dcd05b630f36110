"""The API reference as one self-contained HTML page, made from the OpenAPI document; it loads nothing and runs nothing."""

from __future__ import annotations

import html
import json
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem;border-bottom:1px solid #d5dbe3}
details{border:1px solid #d5dbe3;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f4f6f9;padding:.6rem;overflow:auto;border-radius:4px}
b.m{display:inline-block;min-width:3.6rem;font:600 12px ui-monospace,monospace}
td,th{text-align:left;vertical-align:top;padding:.15rem .8rem .15rem 0}
@media(prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}pre{background:#1e242e}details,h2{border-color:#36404e}a{color:#8ab4ff}}
"""


def reference_page(document: dict[str, Any]) -> str:
    """The whole page."""
    about = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(about['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{_text(about['title'])} <small>{_text(about['version'])}</small></h1><p>{_text(about.get('description', ''))}</p>",
        "<p>Send the key as <code>Authorization: Bearer KEY</code>. The machine-readable document is at "
        "<a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation.get("tags", ["other"])[0], []).append(_operation(method, path, operation))
    for tag, blocks in by_tag.items():
        parts.append(f"<h2>{_text(tag)}</h2>" + "".join(blocks))
    parts.append("<h2>shapes</h2>")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        body = json.dumps(schema, indent=2, ensure_ascii=False)
        parts.append(f"<details id='{_text(name)}'><summary><code>{_text(name)}</code></summary><pre>{_text(body)}</pre></details>")
    return "".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(item['name'])}</code><td>{_text(item['in'])}<td>{_text(item.get('description', ''))}"
        for item in operation.get("parameters", [])
    )
    body = "".join(
        f"<p>Body, <code>{_text(kind)}</code>: {_shape(content.get('schema', {}))}</p>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(
        f"<tr><td>{_text(status)}<td>{_text(answer.get('description', ''))}<td>"
        + " ".join(_shape(content.get("schema", {})) for content in answer.get("content", {}).values())
        for status, answer in operation.get("responses", {}).items()
    )
    table = f"<table>{rows}</table>" if rows else ""
    return (
        f"<details><summary><b class=m>{method.upper()}</b> <code>{_text(path)}</code> "
        f"&nbsp; {_text(operation.get('summary', ''))}</summary>"
        f"<p>{_text(operation.get('description', ''))}</p>{table}{body}<table>{answers}</table></details>"
    )


def _shape(schema: dict[str, Any]) -> str:
    reference = schema.get("$ref")
    if reference:
        name = _text(reference.rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    return _text(schema.get("description", schema.get("type", "")))


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
