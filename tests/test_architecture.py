"""The house rules, as tests: who may import whom, and what an import costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKSHOP = {"torch", "torchvision", "segmentation_models_pytorch", "onnx", "onnxscript", "tensorrt", "pycuda"}


def modules_after(statement: str) -> set[str]:
    """Names of the top-level packages loaded in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_contracts_hold() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_stands_under_a_contract() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    governed = {name for contract in contracts for name in contract["source_modules"]}
    packages = {f"scanside.{p.parent.name}" for p in (ROOT / "scanside").glob("*/__init__.py")}
    assert packages - governed == set()


def test_help_loads_nothing_heavy() -> None:
    loaded = modules_after(
        "import sys; sys.argv = ['scanside', '--help']\n"
        "from scanside.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0"
    )
    assert loaded & (WORKSHOP | {"numpy", "onnxruntime", "pydicom", "cv2", "scipy"}) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import scanside; scanside.load",
        "from scanside.exam import open_exam",
        "import scanside.engine.predictor",
        "import scanside.report.write",
        "import scanside.demo",
        "import scanside.doctor",
    ],
)
def test_the_scanner_side_loads_no_workshop(statement: str) -> None:
    assert modules_after(statement) & (WORKSHOP | {"scipy", "sklearn", "matplotlib"}) == set()


def test_no_print_and_no_exit_in_the_library() -> None:
    import ast

    offenders = []
    for path in (ROOT / "scanside").rglob("*.py"):
        relative = path.relative_to(ROOT / "scanside")
        if relative.parts[0] in ("console", "cli.py", "training", "export"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("print", "exit", "quit", "sys.exit", "os._exit"):
                    offenders.append(f"{relative}:{node.lineno} {name}")
    assert offenders == []
