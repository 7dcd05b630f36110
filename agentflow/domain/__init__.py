"""Values and pure decisions: nothing here does I/O, reads a clock, or knows a third party."""
