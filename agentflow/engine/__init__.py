"""The runtime without a cluster: pure decisions, definitions, planners, and the loops that drive them."""
