"""The guest: what runs inside a sandbox. Standard library only, any Python from 3.9 on; it never imports the rest of AgentFlow."""

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox_guest.worker import main; del sys.path[0]; main(sys.argv[2])"
"""For `python3 -I -S -B -c BOOT <folder that holds sandbox_guest> <mode>`."""
