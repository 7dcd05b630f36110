"""The team: a scout that finds the packages, an analyst that ranks and remembers, a reporter that writes it down."""

from __future__ import annotations

import os
from typing import Any

from agentflow import Agent, Context
from repository_review import score
from repository_review.report_html import page
from repository_review.report_markdown import markdown
from repository_review.tools import find_packages

HISTORY = 30
"""How many reviews' total scores a session keeps."""


class NoPythonCode(Exception):
    """The folder has nothing to review."""


class Scout(Agent):
    """Finds the packages of a folder, from inside a sandbox that sees just that folder."""

    async def run(self, context: Context, input: dict[str, Any]) -> dict[str, Any]:
        """{path, include_tests?} in, {packages: [{name, folder, files, top_level_only}], folders_skipped, truncated} out.

        `folder` is a path on the host: what one call of `analyse_package` mounts, and nothing beside it.
        """
        path = input["path"]
        found = await context.tool(find_packages, folder=path, include_tests=bool(input.get("include_tests")))
        if not found["packages"]:
            left_out = "" if input.get("include_tests") else " Tests are left out unless include_tests is true."
            raise NoPythonCode(f"no Python files in {path} ({found['folders_skipped']} folders left out).{left_out}")
        packages = [{**package, "folder": os.path.join(path, package["folder"]).rstrip("/") or "/"} for package in found["packages"]]
        context.log("packages found", packages=len(packages), files=sum(package["files"] for package in packages))
        return {**found, "packages": packages}


class Analyst(Agent):
    """Ranks the packages by attention score and compares them with the last review of the same folder."""

    def run(self, context: Context, input: dict[str, Any]) -> dict[str, Any]:
        """{packages: what analyse_package returned for each} in, {ranking, total, changes, history, review} out.

        Its session is the folder: `state` holds the last review and the total score of those before it.
        """
        ranking = score.rank(input["packages"])
        at = context.started_at.isoformat(timespec="seconds")
        changes = score.compare(ranking, context.state.get("last"))
        last = score.summary_of(ranking, at)
        history = [*context.state.get("history", []), {"at": at, "score": last["score"]}][-HISTORY:]
        context.state["last"] = last
        context.state["history"] = history
        context.state["reviews"] = reviews = context.state.get("reviews", 0) + 1
        context.log("ranked", packages=len(ranking), review=reviews)
        return {"at": at, "review": reviews, "ranking": ranking, "total": score.total(ranking), "changes": changes, "history": history}


class Reporter(Agent):
    """Writes the review as Markdown and as one self-contained HTML page."""

    def run(self, context: Context, input: dict[str, Any]) -> dict[str, Any]:
        """{path, title?, scout, packages, review} in, {summary, markdown, html} out; both texts are whole documents."""
        path = input["path"].encode("utf-8", "backslashreplace").decode()  # a folder's name need not be Unicode; a page must
        title = input.get("title") or f"Review of {os.path.basename(path.rstrip('/')) or path}"
        review = {
            **input["review"],
            "title": title,
            "path": path,
            "details": {package["name"]: package for package in input["packages"]},
            "truncated": input["scout"]["truncated"],
        }
        return {"summary": summary(review), "markdown": markdown(review), "html": page(review)}


def summary(review: dict[str, Any]) -> dict[str, Any]:
    """The few lines that a terminal shows."""
    ranking = review["ranking"]
    return {
        "title": review["title"],
        "path": review["path"],
        "at": review["at"],
        "review": review["review"],
        "total": review["total"],
        "first": [{"name": entry["name"], "score": entry["score"], "band": score.band(entry["score"])} for entry in ranking[:5]],
        "changed": None if review["changes"] is None else len(review["changes"]["moved"]),
        "since": None if review["changes"] is None else review["changes"]["since"],
    }
