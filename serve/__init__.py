"""Refuses its plain name: this package is `agentflow.serve`; the folder stands at the top level by choice (design 18.1)."""

if __name__ == "serve":
    raise ImportError("import 'agentflow.serve' instead of 'serve'")
