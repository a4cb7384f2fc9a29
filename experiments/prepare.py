"""Write a data set as files that training reads.

    python -m experiments.prepare --dataset=fashion_mnist --source=DIR [--output=DATA_DIR]
                                  [--test_share=0.1]
    python -m experiments.prepare --dataset=text --source=FILE|DIR [--vocabulary=characters]
                                  [--held_out=0.05]

`--dataset` says the form of the source: `mnist` and `fashion_mnist` (idx files), `cifar10` (the
binary version), `npz` (arrays by their usual names, as `images` and `labels` or `x_train` and
`y_train`), `folder` (images, a subfolder a class). `--test_share` holds a part of every class back
for evaluation, where the source comes in one piece.

`text` is a file, of gzip too, or a folder of files, in UTF-8, kept as one row of tokens: its
`characters`, its `bytes` (of any file), or those of a tokenizer, `--vocabulary=tokenizer.json`. Its
end is held back, `--held_out` of it as the split test and as much before it as validation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import formats
from experiments.formats import Splits, parted
from experiments.run import command
from jaxflow.data import store, store_text
from jaxflow.data.datasets import DATA_DIR
from jaxflow.names import did_you_mean

READERS: dict[str, Callable[[str], Splits]] = {
    "cifar10": formats.cifar10,
    "fashion_mnist": formats.idx,
    "folder": formats.image_folder,
    "mnist": formats.idx,
    "npz": formats.npz,
}
TEXT = "text"
OF_TEXT, OF_OTHERS = ("vocabulary", "held_out"), ("size", "test_share")
REFRESH = 100


def name_of(dataset: str, source: str, name: str | None) -> str:
    """The name given, that of the data set, or for `npz`, `folder` and `text` the source's."""
    if name is not None or dataset not in ("npz", "folder", TEXT):
        return name or dataset
    place = Path(source).expanduser().resolve()
    stem = place.name.removesuffix(".gz").removesuffix(".txt") if dataset == TEXT else place.stem
    return "".join(letter if letter.isalnum() else "_" for letter in stem.lower())


def read(dataset: str, source: str, size: int | None) -> Splits:
    """Open the source; a size is for folders of images alone.

    Raises:
        ValueError: for an unknown data set, a size where none is taken, or a damaged source.
        FileNotFoundError: where the source is missing.
    """
    if dataset not in READERS:
        known = [*READERS, TEXT]
        raise ValueError(
            f"no data set is called {dataset!r}{did_you_mean(dataset, known)}: "
            f"known are {', '.join(sorted(known))}"
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


def summary(name: str, splits: Splits) -> Table:
    """What was written."""
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
    return table


def tell(table: Table, folder: Path, reader: str, kwargs: dict[str, Any]) -> None:
    """Print what was written, where, and how to train on it."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    table.add_row("where", f"{folder} ({size / 1e6:,.1f} MB)")
    override = {"name": reader, "kwargs": {**kwargs, "data_dir": str(folder.parents[1])}}
    out = Console(soft_wrap=True)
    out.print(table)
    out.print(f'Train on it with --config.data.source="{override}"', markup=False, highlight=False)


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
    kwargs = {"name": name, "split": next(iter(splits.sources))}
    tell(summary(name, splits), folder, "tfds", kwargs)


def prepare_text(source: str, output: str, name: str | None = None, **options: Any) -> None:
    """Read a text, write its tokens, and say what was written.

    Args:
        source, output, name: as of every form.
        options: the `vocabulary` and the share `held_out`, as `formats.text` takes them.

    Raises:
        ValueError, OSError: where that cannot be done, in one sentence; nothing is left then.
    """
    name = name_of(TEXT, source, name)
    found = formats.text(source, **options)
    folder = store_text(name, found.splits, found.vocabulary, output)
    table = Table(title=f"{name}: a text of {found.vocabulary.size} symbols", show_header=False)
    for split, tokens in found.splits.items():
        table.add_row(split, f"{len(tokens):,} tokens")
    tell(table, folder, TEXT, {"name": name, "split": "train", "length": 256})


def main() -> None:
    """The command, once its flags are parsed."""
    given = flags.FLAGS
    options = {flag: given[flag].value for flag in OF_TEXT + OF_OTHERS}
    options = {flag: value for flag, value in options.items() if value is not None}
    is_text = given.dataset == TEXT
    wrong = [flag for flag in options if flag not in (OF_TEXT if is_text else OF_OTHERS)]
    if wrong:
        raise ValueError(
            f"--dataset={given.dataset} takes no --{wrong[0]}: --vocabulary and --held_out are for "
            "text, --test_share for all else, and --size for folders of images"
        )
    if is_text:
        prepare_text(given.source, given.output, given.name, **options)
    else:
        prepare(given.dataset, given.source, given.output, given.name, **options)


def define_flags() -> None:
    """The flags of the command, defined only when it runs."""
    known = ", ".join(sorted([*READERS, TEXT]))
    flags.DEFINE_string("dataset", None, f"What the source holds: one of {known}.")
    flags.DEFINE_string("source", None, "The folder or file to read.")
    flags.DEFINE_string("output", DATA_DIR, "The folder that holds data sets.")
    flags.DEFINE_string("name", None, "Name of the result; by default that of the data set.")
    size = "Crop and resize the images of a folder to squares of this size."
    flags.DEFINE_integer("size", None, size, lower_bound=1)
    share = "Share of the examples of each class to hold back as the split test, as 0.1."
    flags.DEFINE_float("test_share", None, share)
    vocabulary = "Of a text: characters (where left out), bytes, or the file of a tokenizer."
    flags.DEFINE_string("vocabulary", None, vocabulary)
    held = "Share of a text, from its end, that validation and test each have; 0.05 if left out."
    flags.DEFINE_float("held_out", None, held)
    flags.mark_flags_as_required(["dataset", "source"])


if __name__ == "__main__":
    define_flags()
    command.run(main)
