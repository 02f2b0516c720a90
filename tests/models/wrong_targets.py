"""What tests/models/confined.py must notice: ways to go wrong, in a process that starts at once."""

import os


def eat_memory(path):
    if path == "bad":
        return f"ate {len(bytes(10**9))} bytes"
    return "fine"


def hang(path):
    while path == "bad":
        pass
    return "fine"


def crash(path):
    if path == "bad":
        os.abort()
    return "fine"
