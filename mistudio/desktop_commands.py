"""The command line's `desktop install` and `desktop remove`: the entry in the desktop's menu."""

from __future__ import annotations

import argparse

from mistudio.console import Console
from mistudio.system import desktop
from mistudio.system.bundle import own_command


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Write or delete the entry, its icons and its description; returns 0."""
    base = desktop.data_home()
    if arguments.subcommand == "install":
        command = own_command()
        made = desktop.install(command, base)
        values = {"installed": [str(path) for path in made], "command": command}
        console.result(values, [f"miStudio is in the menu; it starts {' '.join(command)}"])
        return 0
    gone = desktop.remove(base)
    sentence = "miStudio is out of the menu." if gone else "miStudio was not in the menu."
    console.result({"removed": [str(path) for path in gone]}, [sentence])
    return 0
