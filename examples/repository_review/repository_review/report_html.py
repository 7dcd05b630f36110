"""The review as one HTML page that needs nothing else: style and charts inside, no script, every foreign text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from repository_review import chart
from repository_review.score import ATTENTION, WATCH, WEIGHTS, band
from repository_review.style import CSS

WORDS = {"attention": "needs attention", "watch": "worth watching", "calm": "calm"}
DETAILED = 12
MOVES = 12
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Should an escape ever be missed, the browser still runs and loads nothing."""


def page(review: Mapping[str, Any]) -> str:
    """The whole document. `review`: the analyst's result with title, path, details (by package name) and truncated."""
    title = escape(review["title"])
    body = "".join(
        (
            _head(review),
            "<main>",
            _numbers(review),
            _notice(review["truncated"]),
            _charts(review["ranking"]),
            _changes(review),
            _findings(review),
            _table(review["ranking"]),
            _method(),
            "</main>",
            "<footer>Written by AgentFlow's repository-review example. The code was parsed in sandboxes without network, never run. "
            "Paths are relative to their package.</footer>",
        )
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{CSS}</style></head><body>{body}</body></html>\n"
    )


def _head(review: Mapping[str, Any]) -> str:
    ranking = review["ranking"]
    bands = [band(entry["score"]) for entry in ranking]
    first = ranking[0]
    if bands.count("attention"):
        count = bands.count("attention")
        verdict = f"{count} of {len(ranking)} packages {'needs' if count == 1 else 'need'} attention, <b>{escape(first['name'])}</b> first."
    elif bands.count("watch"):
        verdict = (
            f"Nothing urgent. {bands.count('watch')} of {len(ranking)} packages are worth watching, <b>{escape(first['name'])}</b> first."
        )
    else:
        verdict = f"All {len(ranking)} packages are calm."
    day, _, time = review["at"].partition("T")
    return (
        f'<header><p class="eyebrow">Code review</p><h1>{escape(review["title"])}</h1>'
        f'<p class="soft"><code>{escape(review["path"])}</code> · '
        f"{escape(day)} {escape(time[:5])} UTC · review no. {review['review']} of this folder</p>"
        f'<p class="lead">{verdict}</p></header>'
    )


def _numbers(review: Mapping[str, Any]) -> str:
    total, history = review["total"], review["history"]
    documented = 100 * (1 - total["undocumented"] / total["public"]) if total["public"] else 100.0
    cards = (
        ("Packages", f"{total['packages']:,}", f"{total['files']:,} files"),
        ("Code lines", f"{total['code_lines']:,}", "without blanks and comments"),
        ("Functions", f"{total['functions']:,}", f"{total['complex_functions']:,} too complex"),
        ("Documented", f"{documented:.0f} %", f"of {total['public']:,} public definitions"),
        ("Risky calls", f"{total['risky_calls']:,}", f"{total['risky_high']:,} of them high"),
        ("Open ends", f"{total['todos']:,}", _count(total["problems"], "unreadable file")),
    )
    items = "".join(f"<div><dt>{label}</dt><dd>{value}<small>{note}</small></dd></div>" for label, value, note in cards)
    return (
        f'<section class="top" aria-label="Key figures"><div class="dial">{chart.ring(total["score"])}'
        f'<span class="soft">attention score</span>{chart.trend(history)}</div><dl class="cards">{items}</dl></section>'
    )


def _notice(truncated: str) -> str:
    return f'<section class="notice"><p>Not everything was looked at: {escape(truncated)}.</p></section>' if truncated else ""


def _charts(ranking: Sequence[Mapping[str, Any]]) -> str:
    bands = "".join(f'<li><span class="key {name}"></span>{word}</li>' for name, word in WORDS.items())
    return (
        '<div class="two"><section><h2>Where to look first</h2><p class="sub">The highest attention scores, and what they are made of.</p>'
        f"{chart.legend(ranking)}{chart.bars(ranking)}</section>"
        '<section><h2>Where the code is</h2><p class="sub">Area is code lines, colour is how much attention a package needs.</p>'
        f'<ul class="legend">{bands}</ul>{chart.treemap(ranking)}</section></div>'
    )


def _changes(review: Mapping[str, Any]) -> str:
    changes = review["changes"]
    if changes is None:
        first = "This is the first review of this folder. The next one will say what changed."
        return f'<section><h2>Changes</h2><p class="soft">{first}</p></section>'
    items = [f"<li><b>{escape(name)}</b> is new</li>" for name in changes["added"]]
    items += [f"<li><b>{escape(name)}</b> is gone</li>" for name in changes["removed"]]
    for moved in changes["moved"][:MOVES]:
        delta = moved["after"] - moved["before"]
        tone = "up" if delta > 0 else "down" if delta < 0 else "soft"
        because = escape(", ".join(moved["because"]))
        items.append(
            f'<li><b>{escape(moved["name"])}</b> <span class="{tone}">{delta:+.1f}</span> <span class="soft">{because}</span></li>'
        )
    if len(changes["moved"]) > MOVES:
        items.append(f'<li class="soft">and {len(changes["moved"]) - MOVES} more</li>')
    inside = f'<ul class="moves">{"".join(items)}</ul>' if items else '<p class="soft">Nothing changed.</p>'
    since = escape(changes["since"].replace("T", " ")[:16])
    before, after = changes["score_before"], review["total"]["score"]
    return (
        f'<section><h2>Changes</h2><p class="sub">Since {since} UTC. The score went from {before:.1f} to {after:.1f}.</p>{inside}</section>'
    )


def _findings(review: Mapping[str, Any]) -> str:
    blocks: list[str] = []
    for entry in review["ranking"][:DETAILED]:
        inside = _package(review["details"][entry["name"]])
        if inside:
            note = ", ".join(
                text
                for count, text in (
                    (entry["complex_functions"], _count(entry["complex_functions"], "complex function")),
                    (entry["risky_calls"], _count(entry["risky_calls"], "risky call")),
                    (entry["problems"], _count(entry["problems"], "unreadable file")),
                )
                if count
            )
            blocks.append(
                f"<details{'' if blocks else ' open'}><summary>{_pill(entry['score'])}<b>{escape(entry['name'])}</b>"
                f'<span class="soft">{note}</span></summary><div class="inside">{inside}</div></details>'
            )
    inside = "".join(blocks) or '<p class="soft">Nothing to show.</p>'
    return f'<section><h2>Findings</h2><p class="sub">The heaviest of each kind, in the packages to look at first.</p>{inside}</section>'


def _package(package: Mapping[str, Any]) -> str:
    complex_ones = [item for item in package["complexity"]["top"] if item["complexity"] > 10]
    parts = (
        _finds(
            "Complex functions",
            complex_ones,
            lambda item: f"<code>{escape(item['function'])}</code> <span class='soft'>complexity {item['complexity']}</span>",
        ),
        _finds(
            "Risky calls",
            package["risky_calls"]["first"],
            lambda item: f"<code>{escape(item['call'])}</code> <span class='soft'>{escape(item['why'])}</span>",
        ),
        _finds("Open ends", package["todos"]["first"], lambda item: escape(item["text"])),
        _finds(
            "Files that could not be read", package["problems"]["first"], lambda item: f"{escape(item['kind'])}: {escape(item['message'])}"
        ),
        f'<p class="soft">Not complete: {escape(package["truncated"])}.</p>' if package["truncated"] else "",
    )
    return "".join(parts)


def _finds(heading: str, items: Sequence[Mapping[str, Any]], shown: Any) -> str:
    if not items:
        return ""
    lines = "".join(
        f'<li><span>{shown(item)}</span><code class="where">{escape(item["file"])}:{item["line"]}</code></li>' for item in items
    )
    return f'<h3>{heading}</h3><ul class="finds">{lines}</ul>'


def _table(ranking: Sequence[Mapping[str, Any]]) -> str:
    columns = {
        "code_lines": "Code lines",
        "complex_functions": "Complex",
        "max_complexity": "Peak",
        "risky_calls": "Risky",
        "undocumented": "No docs",
        "todos": "Open ends",
        "problems": "Unreadable",
    }
    head = "".join(f'<th scope="col">{label}</th>' for label in columns.values())
    rows = []
    for entry in ranking:
        cells = "".join(f"<td{'' if entry[key] else ' class=zero'}>{entry[key]:,}</td>" for key in columns)
        name = f"<code>{escape(entry['name'])}</code>" + (" *" if entry["truncated"] else "")
        rows.append(f"<tr><td>{name}</td><td>{_pill(entry['score'])}</td>{cells}</tr>")
    note = "<p class='sub'>* not read completely</p>" if any(entry["truncated"] for entry in ranking) else ""
    return (
        '<section><h2>All packages</h2><p class="sub">By attention score. Peak is the complexity of the most complex function.</p>'
        '<div class="wide" tabindex="0" role="region" aria-label="All packages"><table><thead><tr><th scope="col">Package</th>'
        f'<th scope="col">Score</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{note}</section>'
    )


def _method() -> str:
    weights = ", ".join(f"{chart.LABELS[part].lower()} up to {weight}" for part, weight in WEIGHTS.items())
    return (
        f'<section><h2>How the score is made</h2><p class="sub">0 is calm, 100 is the most attention: {weights}. '
        "Counts are taken per 1,000 code "
        "lines, and the first ones weigh most. A function is complex when its cyclomatic complexity is over 10. "
        f"From {WATCH:g} a package is worth watching, from {ATTENTION:g} it needs attention. "
        "A risky call is a reason to look, not a fault.</p></section>"
    )


def _pill(points: float) -> str:
    name = band(points)
    return f'<span class="pill {name}" title="{WORDS[name]}">{points:.1f}</span>'


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
