"""A team of agents that reviews a folder of Python code; the folder above holds its workflow.yaml and README."""
