"""`diffeo share`."""

from collections.abc import Iterator

from diffeo.pretrained.storage import STORED
from diffeo.run import Run, share
from diffeo.utils.console import PlainConsole

FIXED = {"precision": "float32"}


def main(
    run: Run,
    name: str | None = None,
    *,
    out: str | None = None,
    private: bool = False,
    dtype: str | None = None,
    license: str | None = None,
    message: str | None = None,
) -> Iterator[str]:
    """Push a model to the Hugging Face hub, with a model card made from its run.

    Examples: `diffeo share runs/mine --out shared`, `diffeo share runs/mine owner/name --private`.

    Args:
        name: Its name on the hub, owner/name.
        out: Write what would be pushed into this folder, and push nothing.
        private: Make the repository private.
        dtype: bfloat16 stores the kernels of the networks in 16 bits, for nearly half the size; the
            card then reports the test score with these weights, if the data are available.
        license: A license as the hub names it, such as apache-2.0.
        message: The message of the commit.
    """
    if dtype is not None and dtype not in STORED:
        raise ValueError(f"--dtype is {dtype}: choose {', '.join(STORED)}.")
    place = share(
        run,
        name,
        out,
        dtype=None if dtype is None else STORED[dtype],
        license=license,
        console=PlainConsole(),
        private=private or None,  # None leaves an organization's default
        **({} if message is None else {"commit_message": message}),
    )
    yield f"{'Pushed to' if out is None else 'Written to'} {place}."
