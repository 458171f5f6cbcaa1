"""The commands: parse, call, print. What they do is elsewhere; heavy imports happen inside, so that `rewarm --help` is quick."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rewarm import __version__
from rewarm.cli_options import Out, Overrides, named_path, run_until
from rewarm.cli_vocab import vocab_app

app = typer.Typer(
    name="rewarm",
    help="Continual pretraining: teach a language model a new language or field, and keep what it knew.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(vocab_app, name="vocab")


RecipeFile = Annotated[Path, typer.Argument(help="a recipe (YAML); `rewarm recipe` lists its fields")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rewarm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")] = False,
) -> None:
    pass


@app.command()
def demo(
    overrides: Overrides = None,
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="the run's folder")] = "runs/demo",
) -> None:
    """The whole way, small, on a real 135M model and real Vietnamese text, on this machine's CPU: about ten minutes."""
    from rewarm.console import Console
    from rewarm.demo.start import run_demo

    run_demo(overrides or [], named_path(out) or Path(out), Console())


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Every stage of a recipe, resumable; ends with a table and the model's folder."""
    run_until(recipe, overrides, out, None)


@app.command()
def corpus(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Only the corpus: read, clean, deduplicate, split; prints what was dropped and why."""
    run_until(recipe, overrides, out, "corpus")


@app.command()
def tokenize(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """The stages up to packed rows of tokens, with the mixture's table."""
    run_until(recipe, overrides, out, "rows")


@app.command()
def train(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """The stages up to the trained model; nothing is measured on held-out text beyond the probes."""
    run_until(recipe, overrides, out, "train")


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="no measurement: neither time nor memory")] = False,
) -> None:
    """What a run will do: tokens, steps, time, memory, schedule, mixture. Takes a few steps to measure; trains nothing, writes nothing."""
    from rewarm.console import Console
    from rewarm.plan import plan_recipe
    from rewarm.plan_show import show_plan
    from rewarm.recipe import load_recipe

    console = Console()
    show_plan(plan_recipe(load_recipe(recipe, overrides or []), console, measured=not quick), console)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="the model's folder (or hub id)")],
    text: Annotated[list[str], typer.Option("--text", help="name=file (txt, jsonl, parquet); `old...` names are text it should keep")],
    against: Annotated[str | None, typer.Option("--against", help="the base to compare with")] = None,
    field: Annotated[str, typer.Option("--field", help="the text's field in jsonl and parquet")] = "text",
    window: Annotated[int, typer.Option("--window", help="characters a window scores")] = 4096,
    stride: Annotated[int, typer.Option("--stride", help="characters a later window moves on")] = 2048,
    prefix: Annotated[str, typer.Option("--prefix", help="auto, bos, eos, none, or a token")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, fp32 or bf16; the same for both models")] = "auto",
    max_mb: Annotated[float | None, typer.Option("--max-mb", help="megabytes scored a file; default 0.2 on a CPU, 1 on a GPU")] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="write results.json and documents.parquet here")] = None,
) -> None:
    """Bits per byte of one model, or what changed between two: any models, any tokenizers, with intervals."""
    from rewarm.console import Console
    from rewarm.evaluating import evaluate_command

    settings = {"window": window, "stride": stride, "prefix": prefix, "dtype": dtype} | ({"max_mb": max_mb} if max_mb is not None else {})
    evaluate_command(model, against, text, field, settings, named_path(out), Console())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="a run's folder, as runs/demo; the run need not have ended")],
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="where to write the page; default report.html in the run")
    ] = None,
) -> None:
    """The page of a run made anew: one HTML file; says what the run did not leave behind."""
    from rewarm.console import Console
    from rewarm.reporting import report_command

    report_command(run, named_path(out), Console())


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="only fields whose path begins so, as `train`")] = None,
) -> None:
    """Every field of a recipe: type, default, meaning."""
    from rewarm.console import Console
    from rewarm.reference import show_reference

    show_reference(name, Console())


@app.command()
def doctor() -> None:
    """What this machine has: processor, GPUs, packages, and what each missing one would give."""
    from rewarm.console import Console
    from rewarm.doctor import examine, show

    show(examine(), Console())


def main() -> None:
    """The console script: runs a command and turns errors into a message and an exit code (see rewarm.errors)."""
    from rewarm import signals
    from rewarm.errors import EXIT_STOPPED

    # libgomp's threads spin while they wait for each other: beside one busy process that costs a factor of 1.6; waiting asleep costs 4 % of
    # a quiet machine (benchmarks/threads.py). Read when torch is loaded; a user's setting wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 must not end a run at its first Vietnamese line
    signals.install()
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    try:
        code = _code_of_app(debug)
    except KeyboardInterrupt:
        print("rewarm: interrupted", file=sys.stderr)
        code = EXIT_STOPPED
    finally:
        signals.ignore()
    sys.exit(code)


def _code_of_app(debug: bool) -> int:
    """Runs the command; what it raises becomes a message and the exit code that belongs to it, unless `debug`."""
    from rewarm.errors import EXIT_FAILED, Stopped, UserError

    try:
        app()
    except UserError as error:
        if debug:
            raise
        print(f"rewarm: {error}", file=sys.stderr)
        _give_up_stdout()
        return error.exit_code
    except Stopped as error:
        print(f"rewarm: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        print(f"rewarm: {_told(error)}", file=sys.stderr)
        _give_up_stdout()
        return EXIT_FAILED
    return 0


def _told(error: Exception) -> str:
    """What is said of an error that nobody expected. A full disk is known by its number, wherever it was met."""
    from rewarm.atomic import disk_full, is_disk_full

    if is_disk_full(error):
        return str(disk_full(Path(getattr(error, "filename", None) or ".")))
    return f"{type(error).__name__}: {error}\n  this is a fault of rewarm or of the machine; --debug shows where"


def _give_up_stdout() -> None:
    """Output that the disk did not take is not tried again at the end, where Python would turn the exit code into 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
