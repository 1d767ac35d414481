"""Who may import whom, where Celery's one door is, and what must never be loaded where."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "sortline": {"producer"},  # the command, which finds the others
    "producer": {"jobs", "model_store", "storage", "pages", "configs", "base"},
    "worker": {"jobs", "vision", "model_store", "storage", "pages", "configs", "base"},
    "pages": {"base"},
    "jobs": {"configs", "base"},
    "vision": {"base"},
    "model_store": {"base"},
    "storage": {"base"},
    "configs": {"base"},
    "base": set(),
}
ROOMS = ("vision.images", "vision.imported", "vision.networks", "vision.serving", "vision.training")
LAZY_DOORS = ["configs", "jobs", "model_store", "producer", *ROOMS[1:]]
DOORS = [*LAZY_DOORS, "pages", "storage", "vision", "vision.images"]
CELERY_DOORS = {
    "jobs/app.py",
    "jobs/monitored.py",  # loaded by Flower, which is Celery's
    "jobs/transport.py",
    "producer/run/enqueue.py",
    "worker/intake.py",
    "worker/monitoring.py",  # a step of Celery's worker tells Flower what the worker is
    "worker/tasks.py",
}
USE_ENVIRONMENT = {
    "base/fault.py",  # of tests alone
    "base/temporary.py",  # TMPDIR, for what this process starts
    "base/supervisor.py",  # children inherit it
    "producer/models.py",  # a child inherits it
    "producer/commands/monitor.py",  # so does Flower
    "producer/commands/stack.py",
    "producer/run/hook.py",  # so does the command of --then
    "producer/local/monitor.py",  # FLOWER_* are Flower's settings
    "sortline/__init__.py",  # where children find our packages
    "worker/processes.py",  # CUDA_VISIBLE_DEVICES is CUDA's
    "vision/serving/quantisation.py",  # tells a library not to report its use
}
# They run code that is inside the data they read.
RUNS_DATA = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
# By names of a table of ours, never by one that came in a message.
IMPORTS_BY_NAME = {"base/doors.py", "vision/networks/registry.py"}
HEAVY = ("mindspore", "openvino", "onnxruntime", "cv2", "numpy", "PIL", "vision", "worker")

FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide who imports whom"
            yield node.lineno, node.module or ""


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_every_package_has_modules() -> None:
    assert {file.split("/")[0] for file in TREES} == MAY_IMPORT.keys()
    assert len(TREES) > 40


@pytest.mark.parametrize("file", TREES)
def test_a_module_imports_only_what_its_package_may(file: str) -> None:
    package = file.split("/")[0]
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package} | {"tests", "benchmarks", "examples"}

    found = [f"{file}:{line} imports {name}" for line, name in imports(TREES[file]) if name.split(".")[0] in forbidden]
    assert found == []


def test_no_import_leads_in_a_circle_or_to_a_higher_floor() -> None:
    """The contracts stand in pyproject.toml, section tool.importlinter."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Analyzed {len(TREES)} files" in done.stdout


def test_celery_is_imported_behind_its_doors_only() -> None:
    found = {
        file
        for file, tree in TREES.items()
        for _, name in imports(tree)
        if name.split(".")[0] in ("celery", "kombu", "billiard")
    }

    assert found <= CELERY_DOORS
    assert {"jobs/app.py", "worker/tasks.py"} <= found  # the search finds what there is


def test_nothing_that_runs_data_as_code_is_imported() -> None:
    assert [
        f"{file}:{line} imports {name}"
        for file, tree in TREES.items()
        for line, name in imports(tree)
        if name.split(".")[0] in RUNS_DATA
    ] == []


def test_nothing_runs_text_as_code() -> None:
    assert [
        f"{file}:{call.lineno} calls {call.func.id}"
        for file, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Name) and call.func.id in RUNS_TEXT
    ] == []


def test_modules_are_not_imported_by_a_name_made_at_run_time() -> None:
    """But by the doors of packages, whose names are literals; see below."""
    assert [
        f"{file}:{call.lineno}"
        for file, tree in TREES.items()
        if file not in IMPORTS_BY_NAME
        for call in calls(tree)
        if (isinstance(call.func, ast.Attribute) and call.func.attr == "import_module")
        or (isinstance(call.func, ast.Name) and call.func.id == "import_module")
    ] == []


def test_toml_and_the_environment_are_read_in_configs_alone() -> None:
    tables = {file for file, tree in TREES.items() for _, name in imports(tree) if name in ("tomllib", "tomli")}
    read = {
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }

    assert tables == {"configs/tables.py"}
    assert read == {"configs/settings.py", *USE_ENVIRONMENT}


def test_no_call_allows_pickles_or_a_shell() -> None:
    assert [
        f"{file}:{call.lineno} {keyword.arg}"
        for file, tree in TREES.items()
        for call in calls(tree)
        for keyword in call.keywords
        if keyword.arg in ("allow_pickle", "shell")
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ] == []


def test_arrays_are_loaded_with_pickles_refused_in_words() -> None:
    loads = [
        (file, call)
        for file, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "load"
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in ("np", "numpy")
    ]

    assert loads
    assert [
        f"{file}:{call.lineno}"
        for file, call in loads
        if "allow_pickle" not in {keyword.arg for keyword in call.keywords}
    ] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import pickle", 1),
        ("def f():\n    from pickle import loads", 1),
        ("import numpy.ma as x, json", 2),
        ("x = 1", 0),
    ],
)
def test_the_search_for_imports_finds_them_wherever_they_stand(text: str, count: int) -> None:
    assert len(list(imports(ast.parse(text)))) == count


def loaded_by(modules: list[str], names: tuple[str, ...]) -> list[str]:
    """Return which of the packages ``names`` a fresh interpreter has after importing ``modules``."""
    program = (
        f"import sys\nfor name in {modules!r}:\n    __import__(name)\n"
        f"print(*sorted({set(names)!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def modules_of(package: str) -> list[str]:
    return [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in TREES
        if file.startswith(f"{package}/")
    ]


def test_the_whole_producer_loads_no_network_library_and_nothing_of_the_workers() -> None:
    modules = modules_of("producer")

    assert {"producer.__main__", "producer.commands.label", "producer.commands.train"} <= set(modules)
    assert loaded_by(modules, HEAVY) == []


def test_a_label_worker_loads_no_training_library_and_no_engine_before_its_first_job() -> None:
    modules = ["worker.tasks", "worker.label.chunk", "worker.__main__", "worker.runtime"]

    assert loaded_by(modules, ("mindspore", "openvino", "onnxruntime")) == []
    assert loaded_by(modules, ("numpy", "celery")) == ["celery", "numpy"]  # the look finds what is there


def test_a_training_leaves_the_plots_to_a_process_of_their_own() -> None:
    assert loaded_by(["worker.train.job"], ("mindspore", "matplotlib")) == ["mindspore"]
    assert loaded_by(["worker.train.plots"], ("mindspore", "matplotlib")) == ["matplotlib"]


def test_a_private_stack_starts_before_the_command_has_loaded_celery() -> None:
    modules = [
        "producer.commands.train",
        "producer.commands.label",
        "producer.local.session",
        "producer.training.training",
    ]

    assert (
        loaded_by(
            [*modules, "producer.run.opening", "producer.sources.argument", "producer.terminal.progress"],
            ("celery", "kombu"),
        )
        == []
    )
    assert loaded_by(["producer.run.gather"], ("celery",)) == ["celery"]  # the look finds what is there


def test_what_both_sides_share_loads_no_network_library() -> None:
    assert loaded_by([*modules_of("model_store"), "jobs.messages", "jobs.app", "jobs.board"], HEAVY) == []


def package_of(module: str) -> str:
    """Return the package that others know ``module`` by; of base each module is a door of its own."""
    known = [name for name in (*MAY_IMPORT, *ROOMS) if f"{module}.".startswith(f"{name}.")]
    return module if module.startswith("base.") else max(known, key=len, default=module)


def from_imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


def door_of(package: str) -> ast.Module:
    return TREES[f"{package.replace('.', '/')}/__init__.py"]


def exported(package: str) -> set[str]:
    """Return the names that a door takes from its own modules, or makes itself."""
    door = door_of(package)
    imported = {
        alias.name for node in from_imports(door) if f"{node.module}.".startswith(f"{package}.") for alias in node.names
    }
    return imported | {
        node.name for node in door.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def test_packages_are_imported_by_their_doors_only_and_never_by_their_own() -> None:
    found = []
    for file, tree in TREES.items():
        me = file.removesuffix(".py").replace("/", ".")
        for line, name in imports(tree):
            package = package_of(name)
            inside = f"{me}.".startswith(f"{package}.")
            if name.split(".")[0] in MAY_IMPORT and inside == (name == package):
                found.append(f"{file}:{line} imports {name}")

    assert found == []


@pytest.mark.parametrize("package", DOORS)
def test_a_door_gives_what_others_need_and_no_more(package: str) -> None:
    needed = {
        alias.name
        for tree in TREES.values()
        for node in from_imports(tree)
        if node.module == package
        for alias in node.names
    }

    assert exported(package) == needed
    modules = {Path(file).stem for file in TREES if file.startswith(f"{package.replace('.', '/')}/")}
    assert not exported(package) & modules  # a name that is a module as well means the one or the other by chance


@pytest.mark.parametrize("package", LAZY_DOORS)
def test_a_lazy_door_opens_to_the_names_that_type_checkers_know(package: str) -> None:
    (opened,) = [call for call in calls(door_of(package)) if ast.unparse(call.func) == "lazy"]
    module = importlib.import_module(package)

    assert ast.unparse(opened) == "lazy(__name__)"
    assert [name for name in exported(package) if not hasattr(module, name)] == []
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense
