"""Write a data set as TFDS files that training reads.

    python -m experiments.prepare --dataset=fashion_mnist --source=DIR [--output=DATA_DIR]
                                  [--test_share=0.1]

`--dataset` says the form of the source: `mnist` and `fashion_mnist` (idx files), `cifar10` (the
binary version), `npz` (arrays by their usual names, as `images` and `labels` or `x_train` and
`y_train`), `folder` (images, a subfolder a class). `--test_share` holds a part of every class back
for evaluation, where the source comes in one piece.
"""

from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import formats
from experiments.formats import Splits, parted
from experiments.run import command
from jaxflow.data import store
from jaxflow.data.datasets import DATA_DIR
from jaxflow.names import did_you_mean

READERS: dict[str, Callable[[str], Splits]] = {
    "cifar10": formats.cifar10,
    "fashion_mnist": formats.idx,
    "folder": formats.image_folder,
    "mnist": formats.idx,
    "npz": formats.npz,
}
REFRESH = 100


def name_of(dataset: str, source: str, name: str | None) -> str:
    """The name given, that of the data set, or for `npz` and `folder` that of the source."""
    if name is not None or dataset not in ("npz", "folder"):
        return name or dataset
    stem = Path(source).expanduser().resolve().stem
    return "".join(letter if letter.isalnum() else "_" for letter in stem.lower())


def read(dataset: str, source: str, size: int | None) -> Splits:
    """Open the source; a size is for folders of images alone.

    Raises:
        ValueError: for an unknown data set, a size where none is taken, or a damaged source.
        FileNotFoundError: where the source is missing.
    """
    if dataset not in READERS:
        raise ValueError(
            f"no data set is called {dataset!r}{did_you_mean(dataset, READERS)}: "
            f"known are {', '.join(sorted(READERS))}"
        )
    if dataset == "folder":
        return formats.image_folder(source, size)
    if size is not None:
        raise ValueError(f"--size is for --dataset=folder; {dataset} keeps the size it has")
    return READERS[dataset](source)


def write(name: str, splits: Splits, output: str, console: Console) -> Path:
    """Store the splits under a progress bar for each."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {s: progress.add_task(s, total=len(v)) for s, v in splits.sources.items()}
        counts = dict.fromkeys(tasks, 0)

        def on_example(split: str) -> None:
            counts[split] += 1
            if counts[split] % REFRESH == 0 or counts[split] == len(splits.sources[split]):
                progress.update(tasks[split], completed=counts[split])

        return store(name, splits.sources, output, classes=splits.classes, on_example=on_example)


def summary(name: str, splits: Splits, folder: Path) -> Table:
    """What was written, where, and how to train on it."""
    table = Table(title=f"{name}: a TFDS data set", show_header=False)
    for split, source in splits.sources.items():
        table.add_row(split, f"{len(source):,} examples")
    example = next(iter(splits.sources.values()))[0]
    for entry, value in example.items():
        table.add_row(
            entry, f"{value.dtype} {list(value.shape)}" if value.ndim else f"{value.dtype}"
        )
    if splits.classes:
        table.add_row("classes", f"{len(splits.classes)}: {', '.join(splits.classes[:10])}")
    size = sum(file.stat().st_size for file in folder.iterdir())
    table.add_row(
        "where",
        f"{folder} ({size / 1e6:,.0f} MB)",
    )
    return table


def prepare(
    dataset: str,
    source: str,
    output: str,
    name: str | None = None,
    size: int | None = None,
    test_share: float | None = None,
) -> None:
    """Read, write, and say what was written.

    Raises:
        ValueError, OSError: where that cannot be done, in one sentence; nothing is left then.
    """
    name = name_of(dataset, source, name)
    splits = read(dataset, source, size)
    if test_share is not None:
        splits = parted(splits, test_share)
    folder = write(name, splits, output, Console(stderr=True))
    kwargs = {"name": name, "split": next(iter(splits.sources)), "data_dir": str(folder.parents[1])}
    override = {"name": "tfds", "kwargs": kwargs}
    out = Console(soft_wrap=True)
    out.print(summary(name, splits, folder))
    out.print(f'Train on it with --config.data.source="{override}"', markup=False, highlight=False)


def main() -> None:
    """The command, once its flags are parsed."""
    given = flags.FLAGS
    prepare(given.dataset, given.source, given.output, given.name, given.size, given.test_share)


def define_flags() -> None:
    """The flags of the command, defined only when it runs."""
    known = ", ".join(sorted(READERS))
    flags.DEFINE_string("dataset", None, f"What the source holds: one of {known}.")
    flags.DEFINE_string("source", None, "The folder or file to read.")
    flags.DEFINE_string("output", DATA_DIR, "The folder that holds data sets.")
    flags.DEFINE_string("name", None, "Name of the result; by default that of the data set.")
    size = "Crop and resize the images of a folder to squares of this size."
    flags.DEFINE_integer("size", None, size, lower_bound=1)
    share = "Share of the examples of each class to hold back as the split test, as 0.1."
    flags.DEFINE_float("test_share", None, share)
    flags.mark_flags_as_required(["dataset", "source"])


if __name__ == "__main__":
    define_flags()
    command.run(main)
