"""Refuses its plain name: this package is `agentflow.actors`; the folder stands at the top level by choice (design 18.1)."""

if __name__ == "actors":
    raise ImportError("import 'agentflow.actors' instead of 'actors'")
