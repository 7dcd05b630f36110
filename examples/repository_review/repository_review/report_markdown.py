"""The review as Markdown. Whatever comes from the reviewed code is shown as code, so that it cannot format or link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repository_review.score import band

MARKS = {"attention": "needs attention", "watch": "worth watching", "calm": "calm"}
DETAILED = 10


def markdown(review: Mapping[str, Any]) -> str:
    """The whole document. `review`: the analyst's result with title, path, details (by package name) and truncated."""
    total = review["total"]
    documented = 100 * (1 - total["undocumented"] / total["public"]) if total["public"] else 100.0
    lines = [
        f"# {_text(review['title'])}",
        "",
        f"{_code(review['path'])}, {_text(review['at'])}, review no. {review['review']} of this folder.",
        "",
        f"**Score {total['score']:.1f} of 100** (0 is calm). {total['packages']} packages, {total['files']:,} files, "
        f"{total['code_lines']:,} code lines, {total['functions']:,} functions of which {total['complex_functions']:,} are complex, "
        f"{documented:.0f} % of the public definitions documented, {total['risky_calls']:,} risky calls, {total['todos']:,} open ends, "
        f"{total['problems']:,} files that do not parse.",
        "",
    ]
    if review["truncated"]:
        lines += [f"> Not everything was looked at: {_text(review['truncated'])}.", ""]
    lines += _changes(review["changes"])
    lines += ["## Ranking", "", "| # | package | score | | code lines | complex | risky | undocumented | open ends | unreadable |"]
    lines.append("|--:|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for place, entry in enumerate(review["ranking"], 1):
        lines.append(
            f"| {place} | {_code(entry['name'])} | {entry['score']:.1f} | {MARKS[band(entry['score'])]} | {entry['code_lines']:,} "
            f"| {entry['complex_functions']} | {entry['risky_calls']} | {entry['undocumented']} | {entry['todos']} | {entry['problems']} |"
        )
    for entry in review["ranking"][:DETAILED]:
        lines += _package(review["details"][entry["name"]])
    return "\n".join(lines).rstrip() + "\n"


def _changes(changes: Mapping[str, Any] | None) -> list[str]:
    if changes is None:
        return ["This is the first review of this folder; the next one will say what changed.", ""]
    lines = [f"## Since {_text(changes['since'])}", ""]
    for word in ("added", "removed"):
        if changes[word]:
            lines.append(f"- {word}: {', '.join(map(_code, changes[word]))}")
    for moved in changes["moved"]:
        lines.append(f"- {_code(moved['name'])} {moved['before']:.1f} → {moved['after']:.1f}: {', '.join(moved['because'])}")
    return [*(lines if len(lines) > 2 else [*lines, "Nothing changed."]), ""]


def _package(package: Mapping[str, Any]) -> list[str]:
    """The findings of one package, or nothing when it has none."""
    lines = [
        f"- complexity {item['complexity']}: {_code(item['function'])} in {_place(item)}"
        for item in package["complexity"]["top"]
        if item["complexity"] > 10
    ]
    lines += [
        f"- risky ({item['severity']}): {_code(item['call'])} {item['why']}, {_place(item)}" for item in package["risky_calls"]["first"]
    ]
    lines += [f"- open end: {_code(item['text'])} in {_place(item)}" for item in package["todos"]["first"]]
    lines += [f"- {item['kind']}: {_code(item['message'])} in {_place(item)}" for item in package["problems"]["first"]]
    if package["truncated"]:
        lines.append(f"- not complete: {_text(package['truncated'])}")
    return ["", f"## {_code(package['name'])}", "", *lines] if lines else []


def _place(item: Mapping[str, Any]) -> str:
    return _code(f"{item['file']}:{item['line']}")


def _code(text: str) -> str:
    """A code span whose text cannot end it, nor the table cell around it."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def _text(text: str) -> str:
    """Prose from the input, without Markdown or HTML meaning."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#|!&" else " " if c == "\n" else c for c in text)
