"""``sortline models``: the versions in the store, and which of them labels."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from base.networks import PRETRAINED
from base.process import shut_out_strangers
from producer.commands.options import Home, Store, settings_of

if TYPE_CHECKING:
    from model_store import ModelStore

app = typer.Typer(no_args_is_help=True, help="List, show, promote, roll back, delete, import and export models.")

Reference = Annotated[
    str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]", help="A version; a name alone means the one in production.")
]
# worker/models/exporting.py has the same names.
ExportFormat = Literal["onnx", "mindir", "ckpt", "safetensors", "openvino"]
Why = Annotated[str, typer.Option("--why", help="A reason, kept in the history.")]


Preset = Literal["imagenet-torch", "imagenet-tf", "ultralytics", "clip"]  # of vision/imported/sources.py
WEIGHTS_NAME = "mobilenetv2-imagenet"  # of a backbone, where nothing else is said


@app.command("list")
def list_models(store: Store = None, home: Home = None) -> None:
    """Show every model and version, with its score and aliases.

    Example:

      sortline models list --store /mnt/models
    """
    from producer.terminal.job_list import aligned

    models = _store(store, home)
    names = models.names() if models.root.exists() else []
    if not names:
        print(f"no models in {models.root} yet: sortline train DATASET --config NAME")
        return
    rows = [("model", "kind", "classes", "val top-1", "made", "aliases")]
    for name in names:
        aliases = models.aliases(name)
        for number in models.versions(name):
            manifest = models.resolve(f"{name}:{number}").manifest
            held = ", ".join(sorted(alias for alias, version in aliases.items() if version == number))
            score = manifest.scores.get("val_top1")
            shown = f"{score:.1%}" if score is not None else ""
            classes = str(len(manifest.classes) or "")
            rows.append((f"{name}:{number}", manifest.kind, classes, shown, manifest.created[:10], held))
    for line in aligned(rows):
        print(line)


@app.command()
def show(
    reference: Reference,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest, for programs.")] = False,
    store: Store = None,
    home: Home = None,
) -> None:
    """Show one version: how right it was, what it was trained on, where its report lies, and who promoted it.

    Examples:

      sortline models show waste26:3

      sortline models show waste26:3 --json               # its manifest
    """
    from producer.terminal.model_page import about

    models = _store(store, home)
    version = models.resolve(reference)
    for line in [version.manifest.model_dump_json(indent=2)] if json else about(models, version):
        print(line)


@app.command()
def delete(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version.")],
    store: Store = None,
    home: Home = None,
) -> None:
    """Delete a version for good. One that an alias means, such as production, stays: move the alias first.

    Example:

      sortline models delete waste26:2
    """
    from producer.errors import UsageError

    models = _store(store, home)
    if ":" not in reference:
        raise UsageError(f"{reference}: say which version, as in {reference}:1; `sortline models list` shows all")
    version = models.resolve(reference)
    models.delete(version.name, version.version)
    print(f"deleted {version.manifest.reference}")


@app.command()
def prune(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model, without a version.")],
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest versions stay.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it, only say what would go.")] = False,
    store: Store = None,
    home: Home = None,
) -> None:
    """Delete a model's old versions; what an alias means, or an unfinished run of this machine needs, stays.

    Examples:

      sortline models prune waste26             # only says what would go

      sortline models prune waste26 --keep 2 --yes
    """
    from producer.run.cleaning import unfinished_models

    models = _store(store, home)
    held = set(models.aliases(name).values())
    numbers = models.versions(name)
    needed = unfinished_models(settings_of(home=home, store=store))
    going = []
    for number in numbers[: max(0, len(numbers) - keep)]:
        if (run := needed.get(f"{name}:{number}")) is not None:
            print(f"kept {name}:{number}: run {run} is not finished")
        elif number not in held:
            going.append(number)
    for number in going:
        if yes:
            models.delete(name, number)
        print(f"{'deleted' if yes else 'would delete'} {name}:{number}")
    if not going:
        print(f"nothing to delete: {name} has {len(numbers)} versions, and --keep is {keep}")
    elif not yes:
        print(f"to delete them: sortline models prune {name} --keep {keep} --yes")


@app.command()
def promote(reference: Reference, why: Why = "promoted by hand", store: Store = None, home: Home = None) -> None:
    """Make a version the one in production. Running jobs keep theirs.

    Example:

      sortline models promote waste26:3 --why "better on glass"
    """
    models = _store(store, home)
    version = models.resolve(reference)
    name, number = version.manifest.name, version.manifest.version
    previous = models.set_alias(name, "production", number, who=_who(), why=why)
    print(f"{name}@production is {number}" + (f", was {previous}" if previous else ""))


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model, without a version.")],
    why: Why = "rolled back by hand",
    store: Store = None,
    home: Home = None,
) -> None:
    """Put the version that was in production before back.

    Example:

      sortline models rollback waste26
    """
    models = _store(store, home)
    before = models.aliases(name).get("production")
    number = models.rollback(name, who=_who(), why=why)
    print(f"{name}@production is {number} again; to take this back: sortline models promote {name}:{before}")


@app.command("import")
def import_model(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A classifier of any framework: an .onnx file, a folder of Hugging Face or timm with one, or "
            "OpenVINO's .xml. Or the weights of a network of ours: .safetensors with torchvision, timm, Keras or "
            "TF-Slim names, or .ckpt; or efficientnet-lite0, -lite1 or -lite2, which come as packages.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Model name in the store; without it one made of PATH.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The label of each output: a line each, a CSV with column label, JSON, or: imagenet.",
        ),
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="A usual pipeline, for an .onnx file without a description of its own.")
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|NAME=VALUE",
            help="What no file says: size, resize, filter, fit, padding, cut_at, scale, mean, std, colours, outputs, "
            "output.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="SAMPLES.csv",
            help="path,label,confidence as your own framework answers; other answers are refused, with the likeliest "
            "mistake.",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="How far a probability may be from the one in --check.")
    ] = 1e-3,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTOS",
            help="Judge bf16, f16 and 8 bits by these photos beside f32, so that workers may use what passes; find an "
            "outlier score with them, and, where they lie in folders called as the labels, thresholds.",
        ),
    ] = None,
    convention: Annotated[
        str, typer.Option(help="Of weights: the padding and scaling they were trained with: tf, torch, or auto.")
    ] = "auto",
    store: Store = None,
    home: Home = None,
) -> None:
    """Bring a classifier or pretrained weights of another framework into the store, in production.

    A classifier keeps its own preprocessing, to the pixel. What its files don't say is asked for; nothing is guessed.
    Weights become a backbone (or a classifier, with --labels) and need MindSpore here.

    Examples:

      sortline models import my-timm-model/ --name birds --check samples.csv

      sortline models import best.onnx --name kitchen          # Ultralytics

      sortline models import model.onnx --preset imagenet-torch --labels imagenet

      sortline models import efficientnet-lite1                # from a package

      sortline models import mobilenetv2_100_imagenet_bn.safetensors
    """
    shipped = str(path) in PRETRAINED
    weights = shipped or path.suffix.lower() in (".safetensors", ".ckpt")
    of_graphs = {"--preset": preset, "--preprocess": preprocess, "--check": check, "--calibrate": calibrate}
    if weights and (given := [option for option, value in of_graphs.items() if value]):
        from producer.errors import UsageError

        raise UsageError(f"{path} holds weights; {', '.join(given)} is for classifiers that come as graphs")
    arguments = [
        "import" if weights else "graph",
        str(path if shipped else path.absolute()),
        "--name",
        name or (WEIGHTS_NAME if weights and not shipped else _name_of(path)),
    ]
    if labels is not None:
        arguments += ["--labels", labels if labels == "imagenet" else str(Path(labels).absolute())]
    if weights:
        arguments += ["--convention", convention]
    else:
        for said in preprocess or ():
            arguments += ["--preprocess", said if "=" in said else str(Path(said).absolute())]
        arguments += ["--tolerance", str(tolerance)]
        arguments += ["--preset", preset] if preset is not None else []
        arguments += ["--check", str(check.absolute())] if check is not None else []
        arguments += ["--calibrate", str(calibrate.absolute())] if calibrate is not None else []
    from producer.models import run_models

    raise typer.Exit(run_models(arguments, settings_of(home=home, store=store)))


def _name_of(path: Path) -> str:
    """Return a model name made of a file's or folder's."""
    return re.sub(r"[^a-z0-9]+", "-", path.absolute().stem.lower()).strip("-")[:64] or "imported"


@app.command()
def export(
    reference: Reference,
    file_format: Annotated[ExportFormat, typer.Option("--format", help="What to write.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file to write, or a folder for NAME-VERSION and the format's suffix."),
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    store: Store = None,
    home: Home = None,
) -> None:
    """Write a version in another format, for other programs, with labels and usage in a .json beside it.

    The written file is loaded again and must answer as the published version does, or nothing is left behind.

    onnx, mindir, openvino (.xml and .bin): the whole graph, uint8 RGB pictures in, probabilities out.
    ckpt, safetensors: the weights. These two and mindir need MindSpore here (pip install "sortline\\[train]").

    Examples:

      sortline models export waste26:3 --format onnx      # waste26-3.onnx

      sortline models export waste26 --format mindir -o new.mindir
    """
    arguments = ["export", reference, "--format", file_format, "--output", str(output.absolute())]
    if force:
        arguments.append("--force")
    from producer.models import run_models

    raise typer.Exit(run_models(arguments, settings_of(home=home, store=store)))


def _store(store: Path | None, home: Path | None) -> ModelStore:
    from model_store import ModelStore

    shut_out_strangers()  # of what is written into it
    return ModelStore(settings_of(home=home, store=store).store_root)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number that the system has no name for
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"
