"""What the docs say must exist: commands, options, files, names, links, settings, exit codes, reason codes.

Every `sortline` of a shell block must parse. The README's blocks are run by `tests/e2e/test_readme.py`, those of five
pages by `tests/e2e/test_pages.py`, those of five more by `tests/e2e/test_server_pages.py`, those of
`docs/guide/performance.md` with tiny sizes by `tests/e2e/test_benchmarks.py`, `docker-compose.yml` by `tests/compose`,
the two machines of `docs/guide/cluster.md` by `tests/cluster/test_hosts.py`.
Both tests of pages name the few blocks that they pass over, and why.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from configs.settings import Settings
from jobs.broker import Keys
from jobs.label import LabelChunk
from jobs.messages import ModelPin
from producer import errors
from producer.__main__ import app
from producer.reports.layout import Layout
from producer.runfile import Plan
from producer.terminal.troubleshooting import PAGE, advice_on

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every ``sortline`` in fenced shell blocks, also behind ``|``, ``$`` or a variable."""
    for language, block in FENCE.findall(text):
        if language not in ("sh", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in ("|", "&&", ";")), len(words))
                part, words = words[:end], words[end + 1 :]
                while part and re.match(r"[A-Z_]+=", part[0]):
                    part = part[1:]
                if part[:1] == ["sortline"]:
                    yield part[1:]


COMMANDS = [(name, arguments) for name in NAMES for arguments in commands_in(text_of(name))]


def parse(arguments: list[str]) -> None:
    """Parse as the command line would, and run nothing."""
    command: Any = typer.main.get_command(app)
    path = "sortline"
    while hasattr(command, "commands"):
        assert arguments, f"{path} needs a command"
        assert arguments[0] in command.commands, f"no command {path} {arguments[0]}"
        path, command, arguments = f"{path} {arguments[0]}", command.commands[arguments[0]], arguments[1:]
    command.make_context(path, list(arguments))


@pytest.mark.parametrize(("page", "arguments"), COMMANDS, ids=[f"{page}: {' '.join(a)}" for page, a in COMMANDS])
def test_a_documented_command_parses(page: str, arguments: list[str]) -> None:
    parse(arguments)


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    assert len(COMMANDS) > 20
    assert list(commands_in("```sh\nfind . | A=1 sortline label - # x\n```\n")) == [["label", "-"]]
    for wrong in (["lable", "x"], ["label"], ["label", "x", "--colour"], ["models", "demote", "x"]):
        with pytest.raises(Exception, match=r"no command|Missing parameter|No such option"):
            parse(wrong)


def test_files_and_names_of_the_architecture_page_exist() -> None:
    found = re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", text_of("docs/explanation/architecture.md"))

    assert len(found) > 30
    for file, name in found:
        assert (ROOT / file).is_file(), f"no file {file}"
        assert set(name.split(".")) - {""} <= names_in(ROOT / file), f"no {name} in {file}"


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    return defined | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_running_text_exist(name: str) -> None:
    folders = "base|benchmarks|configs|deploy|docs|examples|jobs|model_store|producer|storage|tests|vision|worker"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text_of(name)):
        assert (ROOT / path).exists(), f"{name} names {path}"


@pytest.mark.parametrize("name", ["docs/development/testing.md", "docs/development/verification.md"])
def test_tests_that_a_page_names_below_tests_exist(name: str) -> None:
    found = re.findall(r"`((?:broker|browser|chaos|compose|cluster|e2e|unit)/[\w./-]+)`", text_of(name))

    assert len(found) > 20
    assert [path for path in found if not (ROOT / "tests" / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_internal_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(name))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        page = (ROOT / name).parent / file if file else ROOT / name
        assert page.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors_of(page), f"{name} links to {target}"


def anchor_of(heading: str) -> str:
    """Return the anchor that a heading has on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {anchor_of(title) for title in titles}


def test_the_pages_of_settings_and_recipes_are_what_their_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))

    for name, text in script["pages"]().items():
        assert text_of(f"docs/reference/{name}") == text, "run: python docs/make_configuration.py"


def test_the_commands_page_is_what_its_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))

    assert text_of("docs/reference/commands.md") == script["page"](), "run: python docs/make_commands.py"


def test_every_line_of_an_example_fits_a_narrow_terminal() -> None:
    examples = [block for language, block in FENCE.findall(text_of("docs/reference/commands.md")) if language == "sh"]

    assert len(examples) == len(re.findall(r"^## sortline ", text_of("docs/reference/commands.md"), re.MULTILINE))
    # Help indents by three, and keeps two columns at the right; a longer line is broken where it can't be copied.
    assert [line for block in examples for line in block.splitlines() if len(line) > 76] == []


def test_the_list_of_pages_has_every_page_and_every_picture_is_shown() -> None:
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)", text_of("docs/README.md"))}
    shown = {
        (ROOT / page).parent / target for page in NAMES for target in re.findall(r"!\[.*\]\((\S+)\)", text_of(page))
    }

    assert "](docs/README.md)" in text_of("README.md")
    assert set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs" / "README.md"} <= listed
    assert {file.resolve() for file in ROOT.glob("docs/images/*.png")} == {file.resolve() for file in shown}


def test_the_readme_has_the_speeds_of_the_performance_page_and_names_its_commands() -> None:
    performance = text_of("docs/guide/performance.md")
    rows = re.findall(r"^\| .* \| (.*) \| `(python -m .*)` \|$", text_of("README.md"), re.MULTILINE)

    assert len(rows) == 5
    for measured, command in rows:
        assert f"{command}" in performance
        for figure in re.findall(r"\d+\.\d+|\d{3,}", measured):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", performance), f"{figure} of {command}"


def test_every_entry_about_an_error_is_a_piece_of_a_message_and_errors_show_it() -> None:
    headings = re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    folders = ("base", "configs", "jobs", "model_store", "producer", "storage", "vision", "worker")
    texts = "\n".join(
        node.value
        for folder in folders
        for file in ROOT.glob(f"{folder}/**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )

    assert len(headings) > 40
    # make says the one about Python
    assert [piece for piece in headings if piece not in texts and "Python 3.10" not in piece] == []
    advice = [advice_on(f"sortline: {piece} ...") for piece in headings]
    assert all(advice)
    assert len(set(advice)) == len(headings)
    assert advice_on("something else") is None
    assert advice_on("no images in photos") == (
        "No file has an image suffix, or all names are hidden: see the suffixes in images."
    )


def test_documented_exit_codes_are_those_of_the_code() -> None:
    section = text_of("docs/reference/exit-codes.md").partition("## Of the commands")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| `(\d+)` \|", section, re.MULTILINE)}

    assert documented == {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}


def test_documented_reason_codes_are_those_of_the_code_each_with_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text_of("docs/reference/reason-codes.md"), re.MULTILINE)
    raised = {
        node.args[0].value
        for package in ("base", "storage", "vision", "worker")
        for file in ROOT.glob(f"{package}/**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ImageError"
        if node.args and isinstance(node.args[0], ast.Constant)
    }

    assert {code for code, _, _ in rows} == raised


def test_documented_columns_are_those_of_the_report() -> None:
    plan = Plan(
        run="r", source="s", base="/", data_root="/", walked=True, labels=["a", "b"], groups=[None, None], top_k=2,
        chunk_images=1, model=ModelPin(name="m", version=1, digest="0" * 64),
    )  # fmt: skip
    reference, readme = text_of("docs/reference/report-columns.md"), text_of("README.md")
    table = reference.partition("| column | holds |")[2].partition("\n\n")[0]
    columns = [
        column for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for column in re.findall(r"`(\w+)`", row)
    ]

    assert columns == Layout.of(plan).columns
    assert ",".join(columns) in reference.splitlines()
    assert ",".join(columns) in readme.splitlines()


def test_the_scaling_page_names_the_keys_that_an_autoscaler_counts() -> None:
    keys = Keys(Settings().key_prefix)

    listed = set(re.findall(r"listName: (\S+)", text_of("docs/guide/scaling.md")))
    assert listed == {*keys.queues(LabelChunk.queue), keys.unacked}
