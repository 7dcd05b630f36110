"""Tools that end in every way a tool can."""

from agentflow import tool


@tool
def double(value: int) -> int:
    """Twice the value."""
    return value * 2


@tool
def raises(message: str):
    """Raises KeyError."""
    raise KeyError(message)


@tool(wall_s=1.0)
def hangs():
    """Never returns."""
    while True:
        pass


@tool(wall_s=20.0)
def prints(megabytes: int):
    """Prints that much and returns how much it was."""
    for _ in range(megabytes):
        print("x" * (1 << 20))
    return megabytes


@tool(memory_bytes=96 << 20, address_space_bytes=4 << 30, wall_s=20.0)
def eats_memory():
    """Takes memory until something ends it."""
    held = []
    while True:
        held.append(bytearray(b"x") * (8 << 20))


@tool
def odd_text():
    """NUL and lone surrogates, in the value and in what is printed."""
    print("nul \0 surrogate \ud800")
    return {"nul": "a\0b", "surrogate": "\ud800", "key \udfff": 1}


@tool
def reaches_out(host: str, port: int):
    """Tries the network and the host's files; returns what it saw."""
    import os
    import socket

    try:
        socket.create_connection((host, port), 2)
        network = "open"
    except OSError as error:
        network = type(error).__name__
    return {
        "network": network,
        "shadow": os.path.exists("/etc/shadow"),
        "home": sorted(os.listdir("/root")),
        "environment": dict(os.environ),
    }


@tool(mounts=("folder",))
def lists(folder: str) -> list:
    """Names in a mounted folder, and whether it can be written."""
    import os

    try:
        with open(os.path.join(folder, "written"), "w"):
            writable = True
    except OSError:
        writable = False
    return [sorted(os.listdir(folder)), writable]


@tool(isolation="inline")
def inline_pid() -> int:
    """The process it runs in."""
    import os

    return os.getpid()
