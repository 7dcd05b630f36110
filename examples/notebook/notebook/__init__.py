"""The application folder of examples/sessions.py: one agent that remembers."""
