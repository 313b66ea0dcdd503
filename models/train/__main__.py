"""`python -m models.train RECIPE.toml`: one recipe in, weights with their whole history out.

The folder of the run holds weights.safetensors (the best epoch), curve.csv, tensorboard/, report.json (command, seed,
recipe, digests, figures, machine), worst/ (pictures of the worst validation examples) and checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from models.network import WeightsError
from models.train.checkpoint import CheckpointError
from models.train.density import complete
from models.train.recipe import Recipe, RecipeError, read_recipe
from models.train.region import RegionTask
from models.train.report import save_report
from models.train.sources import Cache, SampleError, generator_digest
from models.train.tasks import network_of, task_of
from models.train.trainer import Trainer, transfer, with_minutes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _train(options, f"python -m models.train {shlex.join(given)}")
    except (RecipeError, CheckpointError, SampleError, WeightsError) as why:
        sys.exit(f"python -m models.train: {why}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="what to train, e.g. models/train/recipes/ct-lung-cpu.toml")
    parser.add_argument("--minutes", type=float, help="no new epoch begins after so many (else as the recipe says)")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    parser.add_argument("--resume", action="store_true", help="go on where the run in the folder left off")
    parser.add_argument("--from", dest="weights", type=Path, help="start from these weights as far as they fit")
    parser.add_argument("--out", type=Path, help="folder of the run (else out/ and the recipe's name)")
    parser.add_argument("--cases", type=Path, help="prepared real cases: what python -m workers.prepare wrote")
    parser.add_argument("--cache", type=Path, default=Path("out/samples"), help="folder of samples drawn before")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that draw samples")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda")
    return parser


def _train(options: argparse.Namespace, command: str) -> None:
    console = Console()
    recipe = _recipe(options)
    out: Path = options.out or Path("out") / options.recipe.stem
    out.mkdir(parents=True, exist_ok=True)
    if not options.resume and (out / "checkpoint.safetensors").exists():
        raise CheckpointError(f"{out}: holds a training already; --resume goes on with it, --out names another folder")
    task, told = task_of(recipe, Cache(folder=options.cache, processes=options.processes), options.cases)
    console.print(f"{recipe.task}: {', '.join(f'{count} {what}' for what, count in told.items())}", highlight=False)
    torch.manual_seed(recipe.seed)
    network = network_of(recipe)
    facts = {"command": command, "seed": recipe.seed, "generator": generator_digest(), "samples": told}
    if options.weights is not None:
        fresh = transfer(network, options.weights)
        facts |= {"from": str(options.weights), "not_transferred": fresh}
        lacking = f"NOT transferred, drawn anew: {', '.join(fresh)}" if fresh else "every tensor transferred"
        console.print(f"[bold]from {options.weights}: {lacking}[/bold]")
    trainer = Trainer(
        network=network, task=task, recipe=recipe, out=out, device=options.device, console=console, facts=facts
    )
    if options.resume:
        trainer.resume()
    ended = trainer.run()
    if isinstance(task, RegionTask):
        trainer.facts |= complete(out / "weights.safetensors", task, options.device)
    save_report(trainer, ended)
    console.print(f"{ended}; best is epoch {trainer.best['epoch']:g} with {trainer.best['score']:.4f}: {out}")


def _recipe(options: argparse.Namespace) -> Recipe:
    recipe = read_recipe(options.recipe)
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    return recipe if options.minutes is None else with_minutes(recipe, options.minutes)


if __name__ == "__main__":
    main()
