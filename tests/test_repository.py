"""What holds for the repository as a whole: layers, imports, sizes, and nothing of one machine."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "src").rglob("*.py"))
TARGETS = ("demo", "test", "check", "bench", "docs", "clean")
MAY_LOAD_TORCH = ("nn", "training", "models", "experiments", "data.augmentation")


def dotted(module: Path) -> str:
    parts = module.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def files() -> list[Path]:
    """The text files that are tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip(f"this is no git checkout: {listed.stderr.strip()}")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def test_importing_onward_loads_neither_torch_nor_a_database_nor_a_runtime():
    loaded = loaded_by("onward")
    assert "onward" in loaded
    heavy = {"torch", "torchvision", "timm", "lancedb", "lance", "onnxruntime", "onnx", "pandas"}
    assert not loaded & heavy


def test_only_the_modules_that_may_load_torch_do():
    allowed = tuple(f"onward.{name}" for name in MAY_LOAD_TORCH)
    names = [dotted(module) for module in MODULES]
    light = [
        name
        for name in names
        if not any(name == of or name.startswith(f"{of}.") for of in allowed)
        and not name.endswith("__main__")
    ]
    assert "onward.spaces" in light
    assert not loaded_by(*light) & {"torch", "torchvision", "timm", "kornia", "lightning_fabric"}


def test_importing_onward_imports_nothing_but_the_standard_library():
    """So that it is quick whatever is installed beside it."""
    code = (
        "import sys; before = set(sys.modules); import onward\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['onward']"


def test_the_package_says_that_it_is_typed():
    """`Typing :: Typed` in pyproject.toml is true for type checkers only with this file."""
    assert (ROOT / "src/onward/py.typed").is_file()


def test_the_layers_hold():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_a_module_has_at_most_700_lines_and_says_what_it_is(module):
    text = module.read_text()
    assert len(text.splitlines()) <= 700, f"{module.name}: it holds more than one concept"
    assert re.match(r'r?"""\S', text), f"{module.name} does not begin with a docstring"


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "core", "base", "manager"])
def test_no_module_is_a_drawer_for_what_fits_nowhere(word):
    assert not [module for module in MODULES if word in (module.stem, module.parent.name)]


def test_no_file_names_a_directory_of_one_machine():
    directory = re.compile(r"(?<![\w.}~-])/(?:work|home|root|Users|tmp|mnt)/\w|\b[A-Z]:\\\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if path != Path(__file__) and directory.search(line)
    ]
    assert not found


def test_no_file_names_a_package_registry():
    # The hosts of the public registries, and the settings that would name another one.
    registry = re.compile(
        r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs|anaconda\.org"
        r"|(extra-)?index-url|PIP_INDEX|find-links|trusted-host"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if path != Path(__file__) and registry.search(line)
    ]
    assert not found


@pytest.mark.parametrize("target", TARGETS)
def test_the_makefile_has_the_target_and_describes_it(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.*## \w", makefile, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", makefile, re.MULTILINE)


def test_continuous_integration_runs_what_a_contributor_runs():
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_constraints_are_exact_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned
    wrong = [
        line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line)
    ]
    assert not wrong, "renew constraints.txt as CONTRIBUTING.md says"
    names = [re.split("==", line)[0].lower().replace("_", "-") for line in pinned]
    assert "onward" not in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "path",
    sorted(path for name in ("lab", "benchmarks") for path in (ROOT / name).glob("*.py")),
    ids=lambda path: path.stem,
)
def test_what_scripts_import_is_there(path):
    """Scripts that no test runs would break unseen when a name moves."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onward"):
            module = importlib.import_module(node.module)
            lacking = [each.name for each in node.names if not hasattr(module, each.name)]
            assert not lacking, f"{node.module} has no {lacking}"
