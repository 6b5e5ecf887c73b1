"""Who may import whom: lagvae_core and cluster know nothing of each other and nothing of sweeps."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ALLOWED = {
    "lagvae_core": {
        "lagvae_core",
        "torch",
        "numpy",
        "pydantic",
        "pydantic_core",
        "rapidfuzz",
        "scipy",
        "sklearn",
    },
    "cluster": {"cluster", "ray", "pydantic", "yaml", "requests", "aiohttp", "pyarrow", "packaging"},
}
STANDARD = set(sys.stdlib_module_names)
ON_DEMAND = {"lagvae_core/data/parquet.py": {"pyarrow"}}
"""What one file may import inside its functions, where it is asked for, and says so where it is not installed."""


def imports_of(source):
    """(line, module) of every import statement of a Python text, those inside functions and conditions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            argument = node.args[0]
            yield node.lineno, argument.value if isinstance(argument, ast.Constant) else "a computed name"


def files_of(package):
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files, f"{package} has no files"
    return files


def foreign(package, allowed):
    return [
        f"{file.relative_to(REPOSITORY)}:{line} imports {module}"
        for file in files_of(package)
        for line, module in imports_of(file.read_text())
        if module.split(".")[0] not in allowed | STANDARD | ON_DEMAND.get(str(file.relative_to(REPOSITORY)), set())
    ]


def test_what_is_imported_on_demand_is_imported_nowhere_else():
    for name, modules in ON_DEMAND.items():
        tree = ast.parse((REPOSITORY / name).read_text())
        bodies = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        at_once = {module for node in bodies for _, module in imports_of(ast.unparse(node))}
        assert not {module.split(".")[0] for module in at_once} & modules


@pytest.mark.parametrize("package", ALLOWED)
def test_a_lower_layer_imports_only_what_it_may(package):
    assert foreign(package, ALLOWED[package]) == []


def test_nothing_below_imports_the_sweeps():
    for package in ("lagvae_core", "cluster"):
        modules = {m for file in files_of(package) for _, m in imports_of(file.read_text())}
        assert not {module for module in modules if module.split(".")[0] == "sweeps"}


def test_every_import_of_the_sweeps_is_a_declared_dependency():
    declared = {"lagvae_core", "cluster", "sweeps", "torch", "numpy", "pydantic", "pydantic_core", "yaml", "ray"}
    declared |= {"optuna", "pyarrow", "pandas", "scipy", "moocore", "matplotlib", "typer", "rich"}
    declared |= {"optuna_dashboard", "threadpoolctl"}
    assert foreign("sweeps", declared) == []


def test_the_walk_sees_imports_at_any_depth():
    source = (
        "import a.b\nfrom c import d\ndef f():\n    import e\n    if 1:\n        from g.h import i\n__import__('j')"
    )
    assert [module for _, module in sorted(imports_of(source))] == ["a.b", "c", "e", "g.h", "j"]


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("lagvae_core", ("ray", "optuna", "pyarrow", "pandas", "sweeps", "cluster")),
        ("cluster", ("torch", "lagvae_core", "sweeps", "optuna", "pyarrow")),
    ],
)
def test_a_lower_layer_works_without_what_it_may_not_import(package, absent):
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in absent)
    code = f"import sys, importlib, pkgutil; {blocked}package = importlib.import_module({package!r})\n"
    code += "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
    code += "    importlib.import_module(module.name)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
