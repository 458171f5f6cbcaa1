"""The commands: parse, call, print. What they do is elsewhere; heavy imports happen inside, so that `rewarm --help` is quick."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rewarm import __version__

app = typer.Typer(
    name="rewarm",
    help="Continual pretraining: teach a language model a new language or field, and keep what it knew.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
vocab_app = typer.Typer(no_args_is_help=True, help="Extend a tokenizer without changing what it does to old text.", rich_markup_mode=None)
app.add_typer(vocab_app, name="vocab")


def _folder(path: str | None) -> Path | None:
    """A folder to write to. An empty one is a variable that was not set, and would mean the folder we are in."""
    from rewarm.errors import UserError

    if path is not None and not path.strip():
        raise UserError("an empty name", where="--out", fix="give a folder")
    return None if path is None else Path(path)


RecipeFile = Annotated[Path, typer.Argument(help="a recipe (YAML); `rewarm recipe` lists its fields")]
Overrides = Annotated[list[str] | None, typer.Argument(help="fields to change, as train.max_minutes=20")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="the run's folder; default runs/<recipe's name>")]


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

    run_demo(overrides or [], _folder(out) or Path(out), Console())


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Every stage of a recipe, resumable; ends with a table and the model's folder."""
    _until(recipe, overrides, out, None)


@app.command()
def corpus(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Only the corpus: read, clean, deduplicate, split; prints what was dropped and why."""
    _until(recipe, overrides, out, "corpus")


@app.command()
def tokenize(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """The stages up to packed rows of tokens, with the mixture's table."""
    _until(recipe, overrides, out, "rows")


@app.command()
def train(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """The stages up to the trained model; nothing is measured on held-out text beyond the probes."""
    _until(recipe, overrides, out, "train")


def _until(recipe: Path, overrides: list[str] | None, out: str | None, last: str | None) -> None:
    from rewarm.console import Console
    from rewarm.recipe import load_recipe
    from rewarm.run import run_recipe

    folder = _folder(out)
    loaded = load_recipe(recipe, overrides or [])
    run_recipe(loaded, folder or Path("runs") / loaded.recipe.name, Console(), until=last)


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="no measurement: neither time nor memory")] = False,
) -> None:
    """What a run will do: tokens, steps, time, memory, schedule, mixture. Takes a few steps to measure; trains nothing, writes nothing."""
    from rewarm.console import Console
    from rewarm.plan import plan_recipe, show_plan
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
    evaluate_command(model, against, text, field, settings, _folder(out), Console())


@vocab_app.command("extend")
def vocab_extend(
    recipe: Annotated[Path | None, typer.Argument(help="a recipe; or give --base, --target and --protect")] = None,
    overrides: Overrides = None,
    base: Annotated[str | None, typer.Option("--base", help="the base model's folder (or hub id)")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="language=file, as vi=text.txt; may be repeated")] = None,
    protect: Annotated[list[Path] | None, typer.Option("--protect", help="old text that must keep its tokens; may be repeated")] = None,
    size: Annotated[int | None, typer.Option("--size", help="new tokens; default: the knee of the size curve")] = None,
    tau: Annotated[str | None, typer.Option("--tau", help="guard, or `off` to go without old text; default 0.01")] = None,
    out: Out = None,
) -> None:
    """A tokenizer that knows the new language's words, and a model with rows for them: a folder that any trainer reads."""
    from rewarm.console import Console
    from rewarm.errors import UserError
    from rewarm.extending import extend_command

    given = {"--base": base, "--target": target, "--protect": protect, "--size": size, "--tau": tau}
    if recipe is None:
        extend_command(base, target or [], protect or [], size, tau, _folder(out), Console())
    elif flags := [name for name, value in given.items() if value not in (None, [])]:
        raise UserError(
            f"a recipe and {flags[0]}: which one holds?",
            where="rewarm vocab extend",
            fix="leave the recipe out, or change its fields, as vocab.size=4000",
        )
    else:
        _until(recipe, overrides, out, "vocab")


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

    report_command(run, _folder(out), Console())


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
    from rewarm.errors import EXIT_FAILED, EXIT_STOPPED, Stopped, UserError

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
        app()
    except UserError as error:
        if debug:
            raise
        print(f"rewarm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as error:
        print(f"rewarm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("rewarm: interrupted", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except Exception as error:
        if debug:
            raise
        print(f"rewarm: {type(error).__name__}: {error}", file=sys.stderr)
        print("  this is a fault of rewarm or of the machine; --debug shows where", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
