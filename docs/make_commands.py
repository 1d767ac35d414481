"""Write docs/reference/commands.md from the commands' own help: ``python docs/make_commands.py``.

A unit test compares the page with what this script would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from producer.__main__ import app

PAGE = Path(__file__).with_name("reference") / "commands.md"
HEAD = """# Commands

This page is written by `python docs/make_commands.py` from what `sortline COMMAND --help` says; change it in
`producer/commands/`. See also: [exit codes](exit-codes.md), and [settings](configuration.md) of a configuration file
and the environment.
"""
RANGE = re.compile(r"^(?:x>=(\d+)|(\d+(?=<=x)))")


def page() -> str:
    """Return the text of docs/reference/commands.md."""
    commands = list(commands_of(typer.main.get_command(app), "sortline"))
    rows = "".join(f"| [`{name}`](#{name.replace(' ', '-')}) | {first_line(command)} |\n" for name, command in commands)
    contents = f"\n| command | what it does |\n|---|---|\n{rows}"
    return HEAD + contents + "".join(section(name, command) for name, command in commands)


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, command) of everything that can be typed, in the order of ``--help``."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, child in command.commands.items():
        yield from commands_of(child, f"{name} {word}")


def section(name: str, command: Any) -> str:
    """Return what the page says of one command."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = re.sub(r"[{](.*?)[}]|\[(\[.*?\])\]", r"\1\2", " ".join([name, *command.collect_usage_pieces(context)]))
    parts = [f"\n## {name}\n", f"```text\n{usage}\n```\n", *blocks(inspect.cleandoc(command.help))]
    rows = "".join(row(parameter.get_help_record(context)) for parameter in command.params)
    parts.append(f"| argument or option | default | meaning |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def row(record: tuple[str, str]) -> str:
    """Return the line of one argument or option: its names, and its meaning with ``[default: 5; 1<=x<=9]`` behind."""
    names, meaning = record
    meaning, _, notes = meaning.partition("  [")
    default = ""
    for note in filter(None, notes.removesuffix("]").split("; ")):
        word, _, value = note.partition(": ")
        if word == "default":
            default = "" if "The default is" in meaning else f"`{value}`"
        elif word == "required":
            default = "required"
        else:
            meaning += " " + RANGE.sub(r"From \1\2", note).replace("<=x<=", " to ") + "."
    if not names.startswith("-"):  # an argument: "SOURCE <str>", or "[RUN] <str>"
        names = re.sub(r"^\[(.*)\]$", r"\1", names.partition(" <")[0])
    shown = names.replace(" range>", ">")
    cells = (f"`{shown}`", default, plain(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def blocks(text: str) -> Iterator[str]:
    """Yield paragraphs; examples, which stand indented, as one block that a shell can run."""
    examples: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("  "):
            examples.append(inspect.cleandoc(paragraph))
        elif not re.fullmatch(r"Examples?:", paragraph.strip()):
            yield plain(paragraph).strip() + "\n"
    if examples:
        yield "```sh\n" + "\n".join(examples) + "\n```\n"


def first_line(command: Any) -> str:
    """Return what the list of commands says: the first paragraph."""
    return plain(inspect.cleandoc(command.help).partition("\n\n")[0]).replace("\n", " ")


def plain(text: str) -> str:
    """Return help text without the escapes of Rich's markup."""
    return text.replace("\\[", "[")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
