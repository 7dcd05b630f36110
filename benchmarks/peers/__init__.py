"""The other side of the comparisons, each peer with its best documented settings (docs/performance.md says which and why)."""
