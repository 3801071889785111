"""`dfine recipes`."""

from __future__ import annotations

import argparse

from dfine_lib.config import Recipe
from dfine_lib.recipes import RECIPES, flat, get_recipe


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what lists the recipes."""
    recipes = commands.add_parser(
        "recipes",
        help="list the recipes, or tell one as a difference from its parent",
        epilog="example: dfine recipes x_obj2coco",
    )
    recipes.add_argument("name", nargs="?", metavar="NAME")
    recipes.set_defaults(call=_recipes, after_interrupt="")


def parent_of(recipe: Recipe) -> Recipe | None:
    """The recipe that this one is shown as a difference from: its size on COCO; for those and for `pico`, `l_coco`."""
    if recipe.name == "l_coco":
        return None
    size = recipe.name.split("_")[0]
    return next(RECIPES[name] for name in (size, f"{size}_coco", "l_coco") if name in RECIPES and name != recipe.name)


def _recipes(arguments: argparse.Namespace) -> None:
    if arguments.name:
        recipe = get_recipe(arguments.name)
        parent = parent_of(recipe)
        own, others = flat(recipe), flat(parent) if parent else {}
        differing = {name: value for name, value in own.items() if not parent or value != others[name]}
        print(f"{recipe.name}, differs from {parent.name} in:" if parent else f"{recipe.name}:")
        width = max(map(len, differing), default=0)
        for name, value in differing.items():
            print(f"  {name:{width}}  {value!r}" + (f"  (there {others[name]!r})" if parent else ""))
        return
    print(f"{'name':14}{'classes':>8}{'image':>7}{'epochs':>8}{'stage 2':>9}{'batch':>7}{'lr':>10}{'backbone lr':>13}")
    for recipe in RECIPES.values():
        model, data, train = recipe.model, recipe.data, recipe.train
        stage_2 = train.stop_epoch if train.stop_epoch < train.epochs else "-"
        print(
            f"{recipe.name:14}{model.num_classes:>8}{data.image_size!s:>7}{train.epochs:>8}{stage_2:>9}"
            f"{data.batch_size:>7}{train.lr:>10.3g}{train.backbone_lr:>13.3g}"
        )
