"""Drivers of the ports, one folder each: the only importers of third-party clients and of outside programs."""
