"""AgentFlow's own side of the comparisons."""
