"""Agents and tools that behave badly on purpose; part of the test cluster's application folder."""
