"""`/docs`: the OpenAPI document as one static page. No script, no font and no style from elsewhere."""

import html
import json
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{border-bottom:1px solid #ccc;margin-top:2.5rem}
details{border:1px solid #ddd;border-radius:4px;margin:.4rem 0;padding:.3rem .8rem}
summary{cursor:pointer}b{display:inline-block;width:4.5rem}
code{background:#f4f4f4;padding:.1em .3em}pre{background:#f4f4f4;padding:.6rem;overflow:auto}
table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}
"""
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def render_docs(document: dict[str, Any]) -> str:
    """The page: operations by tag, each with parameters, body and answers; then the schemas."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation))
    title = html.escape(document["info"]["title"])
    parts = [f"<h2>{html.escape(tag)}</h2>{''.join(operations)}" for tag, operations in by_tag.items()]
    schemas = document.get("components", {}).get("schemas", {})
    parts.append("<h2>Schemas</h2>")
    parts += [
        f'<details id="{html.escape(name)}"><summary>{html.escape(name)}</summary>{_pretty(schema)}</details>'
        for name, schema in sorted(schemas.items())
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>"
        f'<body><h1>{title}</h1><p>Machine-readable: <a href="/openapi.json">/openapi.json</a></p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{html.escape(parameter['name'])}</code></td><td>{html.escape(parameter['in'])}</td>"
        f"<td>{'required' if parameter.get('required') else ''}</td></tr>"
        for parameter in operation.get("parameters", ())
    )
    answers = "".join(
        f"<tr><td><code>{html.escape(status)}</code></td><td>{html.escape(answer.get('description', ''))}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    body = operation.get("requestBody")
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
        f"{html.escape(operation.get('summary', ''))}</summary><p>{html.escape(operation.get('description', ''))}</p>"
        f"<table>{parameters}</table>{_pretty(body) if body else ''}<table>{answers}</table></details>"
    )


def _pretty(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=1))}</pre>"
