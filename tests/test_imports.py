"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxflow"

LAYERS = [
    {"records", "names"},
    {"types"},
    {"arrays", "sharding"},
    {"checks", "tokens"},
    {"times", "sources", "manifolds"},
    {"paths", "couplings"},
    {"draws", "velocities"},
    {"sampling"},
    {"inverse", "losses"},
    {"training"},
]
LEAVES = {"networks", "data", "metrics"}
NEVER = {"training": {"losses", "inverse"}}

EXPERIMENTS = ROOT / "experiments"
HOUSE = {
    "setup": set(),
    "output": {"setup"},
    "run": {"setup", "output"},
    "formats": set(),
    "slices": {"setup"},
    "plan": {"setup", "run", "slices"},
    "train": {"setup", "output", "run"},
    "sample": {"setup", "output", "run"},
    "pairs": {"setup", "run"},
    "evaluate": {"setup", "output", "run"},
    "frontier": {"setup", "output", "run"},
    "movie": {"setup", "output", "run"},
    "report": {"setup", "output", "run"},
    "prepare": {"formats", "run"},
    "__init__": set(),
}
LONGEST = 300
LONGER = {
    "jaxflow/training/checkpoint.py": "one interface over Orbax, whose parts share its manager",
}

ONLY = {
    "flax": ["networks/"],
    "diffrax": ["sampling/"],
    "orbax": ["training/checkpoint.py"],
    "tensorflow_datasets": ["data/"],
    "grain": ["data/"],
    "absl": ["data/pipeline.py"],
    "sklearn": ["data/", "metrics/"],
    "ott": ["couplings/"],
    "ot": ["couplings/"],
}
NOWHERE = {"ml_collections", "tensorflow", "torch", "experiments", "configs", "benchmarks", "tests"}
HEAVY = {
    "grain",
    "matplotlib",
    "orbax",
    "ot",
    "scipy.optimize",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
}


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, itself included."""
    if room in LEAVES:
        return {room, "records", "names", "types", "arrays", "tokens", "sharding", "checks"}
    if room == "__init__":
        return set().union(*LAYERS)
    level = next((i for i, layer in enumerate(LAYERS) if room in layer), None)
    assert level is not None, f"jaxflow/{room} stands in no layer: add it to LAYERS or LEAVES"
    return set().union({room}, *LAYERS[:level]) - NEVER.get(room, set())


def imports(file: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it; `from a import b` gives `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(file: Path, package: str = "jaxflow") -> set[str]:
    """The rooms of a package that a file imports."""
    own = (name.split(".") for name in imports(file))
    return {name[1] for name in own if name[0] == package and len(name) > 1}


def tops(file: Path) -> set[str]:
    """The packages that a file imports."""
    return {name.split(".")[0] for name in imports(file)}


def room_of(file: Path, package: Path = PACKAGE) -> str:
    return file.relative_to(package).with_suffix("").parts[0]


def wrong_in_the_house(file: Path, room: str) -> set[str]:
    """What a file in a room of experiments may not import, and does."""
    assert room in HOUSE, f"experiments/{room} has no place in HOUSE: add it"
    return rooms(file, "experiments") - HOUSE[room] - {room}


FILES = sorted(PACKAGE.rglob("*.py"))
HOUSE_FILES = sorted(EXPERIMENTS.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_rooms_import_only_what_lies_below(file):
    wrong = rooms(file) - allowed(room_of(file))
    assert not wrong, f"{file.relative_to(ROOT)} may not import jaxflow's {sorted(wrong)}"


@pytest.mark.parametrize("file", HOUSE_FILES, ids=lambda f: str(f.relative_to(EXPERIMENTS)))
def test_experiments_import_only_what_lies_below(file):
    wrong = wrong_in_the_house(file, room_of(file, EXPERIMENTS))
    assert not wrong, f"{file.relative_to(ROOT)} may not import experiments' {sorted(wrong)}"


@pytest.mark.parametrize(
    ("room", "line", "wrong"),
    [
        ("setup", "from experiments.run import loop", {"run"}),
        ("setup", "def f():\n    import experiments.output.figures", {"output"}),
        ("output", "from experiments.run.reporting import console", {"run"}),
        ("run", "from experiments import train", {"train"}),
        ("formats", "from experiments.setup.build import loss", {"setup"}),
        ("run", "from experiments.output.generate import generator", set()),
        ("train", "from experiments.run import loop", set()),
    ],
)
def test_an_import_of_what_lies_above_is_found(tmp_path, room, line, wrong):
    (tmp_path / "file.py").write_text(line)
    assert wrong_in_the_house(tmp_path / "file.py", room) == wrong


def test_files_are_short():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in [*FILES, *HOUSE_FILES]
    }
    longer = {name for name, length in lengths.items() if length > LONGEST}
    assert longer == LONGER.keys(), "split a file that is too long, and name no other in LONGER"


@pytest.mark.parametrize("package", ONLY)
def test_package_stays_in_its_place(package):
    users = {str(f.relative_to(PACKAGE)) for f in FILES if package in tops(f)}
    wrong = {user for user in users if not user.startswith(tuple(ONLY[package]))}
    assert not wrong, f"{package} belongs in {ONLY[package]}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_never_imported(file):
    assert not tops(file) & NOWHERE


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda f: f.name)
def test_configs_are_data(file):
    assert tops(file) <= {"ml_collections"}


def test_every_rule_speaks_of_a_layer_once():
    names = [room for layer in [*LAYERS, LEAVES] for room in layer]
    assert len(names) == len(set(names))


def test_import_is_light():
    code = "import sys, jaxflow; print(*{n.split('.')[0] for n in sys.modules}, *sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:jaxflow", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_metrics_are_light():
    code = "import sys, jaxflow.metrics; print('sklearn' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert loaded.stdout.strip() == "False", loaded.stderr
