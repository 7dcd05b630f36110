"""Benchmarks: each compares AgentFlow with a peer in the same run on the same machine. `python -m benchmarks --list` names them."""
