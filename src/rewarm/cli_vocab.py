"""`rewarm vocab ...`: parse, call, print. For people who use nothing else of this package, too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rewarm.cli_options import Out, Overrides, named_path, run_until

vocab_app = typer.Typer(no_args_is_help=True, help="Extend a tokenizer without changing what it does to old text.", rich_markup_mode=None)
Protect = Annotated[list[Path] | None, typer.Option("--protect", help="old text that must keep its tokens; may be repeated")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="write the numbers here, too")]


@vocab_app.command("extend")
def vocab_extend(
    recipe: Annotated[Path | None, typer.Argument(help="a recipe; or give --base, --target and --protect")] = None,
    overrides: Overrides = None,
    base: Annotated[str | None, typer.Option("--base", help="the base model's folder (or hub id)")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="language=file, as vi=text.txt; may be repeated")] = None,
    protect: Protect = None,
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
        extend_command(base, target or [], protect or [], size, tau, named_path(out), Console())
    elif flags := [name for name, value in given.items() if value not in (None, [])]:
        raise UserError(
            f"a recipe and {flags[0]}: which one holds?",
            where="rewarm vocab extend",
            fix="leave the recipe out, or change its fields, as vocab.size=4000",
        )
    else:
        run_until(recipe, overrides, out, "vocab")


@vocab_app.command("report")
def vocab_report(
    base: Annotated[
        list[str], typer.Option("--base", help="a model's folder, a tokenizer's file, or a hub id; also name=folder; several are compared")
    ],
    target: Annotated[
        list[str] | None, typer.Option("--target", help="language=file: text of a language to extend to; may be repeated")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="name=file: text that is only measured; may be repeated")] = None,
    protect: Protect = None,
    size: Annotated[int | None, typer.Option("--size", help="the largest extension on the size curve; default 32000")] = None,
    tau: Annotated[str | None, typer.Option("--tau", help="guard of the protected text; default 0.01")] = None,
    max_mb: Annotated[float, typer.Option("--max-mb", help="megabytes of each text that are measured; chosen by a hash")] = 5.0,
    json: Json = None,
) -> None:
    """What texts cost with one or many tokenizers; for one base and --target also the size curve and advice. Writes no tokenizer."""
    from rewarm.comparing import report_command
    from rewarm.console import Console

    report_command(base, target or [], text or [], protect or [], size, tau, max_mb, named_path(json, "--json"), Console())


@vocab_app.command("show")
def vocab_show(
    new: Annotated[str, typer.Argument(help="the extended model's folder, or a tokenizer's file")],
    against: Annotated[str, typer.Option("--against", help="the base it is compared with")],
    text: Annotated[list[str] | None, typer.Option("--text", help="a text to cut; may be repeated; default: five greetings")] = None,
) -> None:
    """Tokens of a text before and after, a row a text; new tokens are coloured."""
    from rewarm.auditing import show_command
    from rewarm.console import Console

    show_command(new, against, text or [], Console())


@vocab_app.command("check")
def vocab_check(
    new: Annotated[str, typer.Argument(help="the extended model's folder, whoever made it")],
    against: Annotated[str, typer.Option("--against", help="the base's folder (or hub id)")],
    protect: Protect = None,
    target: Annotated[list[Path] | None, typer.Option("--target", help="text of the new language; may be repeated")] = None,
    max_changed_lines: Annotated[
        float | None, typer.Option("--max-changed-lines", help="share of protected lines that may change; default: what the kind can hold")
    ] = None,
    tokenizer_only: Annotated[bool, typer.Option("--tokenizer-only", help="leave the weights out, as for a model trained since")] = False,
    json: Json = None,
) -> None:
    """The gate for any two tokenizers: every invariant, what is broken, and an example; exit code 1 if one is."""
    from rewarm.auditing import check_command
    from rewarm.console import Console

    sound = check_command(
        new, against, protect or [], target or [], max_changed_lines, not tokenizer_only, named_path(json, "--json"), Console()
    )
    if not sound:
        raise typer.Exit(1)


@vocab_app.command("train")
def vocab_train(
    text: Annotated[
        list[str] | None, typer.Option("--text", help="file, or language=file: languages are then weighed alike; may be repeated")
    ] = None,
    kind: Annotated[
        Literal["bpe", "sp_bpe", "unigram", "wordpiece"],
        typer.Option("--kind", help="byte-level BPE, SentencePiece BPE or Unigram with byte fallback, or WordPiece (cased)"),
    ] = "bpe",
    size: Annotated[int, typer.Option("--size", help="tokens, control tokens included")] = 32_000,
    balance: Annotated[
        Literal["equal", "proportional"], typer.Option("--balance", help="several languages: all alike, or by their amount of text")
    ] = "equal",
    max_mb: Annotated[float, typer.Option("--max-mb", help="megabytes of each language that are counted; chosen by a hash")] = 500.0,
    out: Out = None,
) -> None:
    """A new tokenizer for a model that is trained from nothing. It can be extended later like any other."""
    from rewarm.console import Console
    from rewarm.training import train_command

    train_command(kind, text or [], size, balance, max_mb, named_path(out), Console())
