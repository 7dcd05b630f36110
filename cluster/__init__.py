"""Refuses its plain name: this package is `agentflow.cluster`; the folder stands at the top level by choice (design 18.1)."""

if __name__ == "cluster":
    raise ImportError("import 'agentflow.cluster' instead of 'cluster'")
