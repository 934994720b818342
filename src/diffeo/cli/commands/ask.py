"""`diffeo ask`."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from diffeo.cli.tables import split_pairs, table_model
from diffeo.run import Run
from diffeo.utils.ranges import Count, Seed

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def main(
    run: Run,
    *,
    given: str | None = None,
    want: str | None = None,
    draws: Count = 4_096,
    seed: Seed = 0,
    figure: str | None = None,
) -> Iterator[Any]:
    """Show the distribution of columns of a table given the values of others.

    Example: `diffeo ask runs/penguins --given species=Adelie,sex=male --want body_mass_g`. What is
    neither given nor asked for is integrated out. Each answer says whether it is exact.

    Args:
        given: The known cells, as COLUMN=VALUE, with commas between several, or the option several
            times; nothing after = is an empty cell.
        want: The columns that are asked for, with commas between several; by default all others.
        draws: How many particles an estimate takes.
        seed: The same seed gives the same estimates.
        figure: A .png, .pdf or .svg file to draw the distributions into.
    """
    from diffeo.answers import conditional
    from diffeo.cli.images import check_figure

    file = None if figure is None else check_figure(figure)
    asked = conditional(
        table_model(run),
        split_pairs(given),
        None if want is None else [name.strip() for name in want.split(",")],
        draws=draws,
        seed=seed,
    )
    from diffeo.answers.describing import describe, draw_distributions

    for name in asked.want:
        title, rows, note = describe(asked, name, LEVELS)
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading in rows[0]:
            table.add_column(heading, justify="left" if heading == "" else "right")
        for row in rows[1:]:
            table.add_row(*row)
        yield table
        yield f"{note}\n"
    if file is not None:
        from diffeo.figures import save

        save(draw_distributions(asked), file)
        yield f"Drawn into {file}."


def expand(words: list[str]) -> list[str]:
    """Join what `--given` names several times, or with several words."""
    found: list[str] = []
    pairs: list[str] = []
    for word in words:
        if word.startswith("--given="):
            pairs.append(word.removeprefix("--given="))
        elif found and found[-1] == "--given":
            found.pop()
            pairs.append(word)
        else:
            found.append(word)
    return [*found, f"--given={','.join(pairs)}"] if pairs else found
