"""The package as a package: version, exports, types, layers, doctests, command line, demo."""

import doctest
import importlib
import importlib.metadata
import inspect
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import entropic
from entropic import _core, logits
from entropic.__main__ import main
from entropic._demo import run_demo

ROOT = Path(__file__).resolve().parents[1]


def test_one_version():
    assert entropic.__version__ == _core.version == importlib.metadata.version("entropic")
    assert entropic.show_config()["version"] == entropic.__version__


def test_config_says_why_there_is_no_cuda():
    cuda = entropic.show_config()["cuda"]
    assert cuda.startswith("built for") or cuda in (
        "not built: ENTROPIC_CUDA=OFF", "not built: no working nvcc was found",
    )  # fmt: skip
    assert cuda.startswith("built") == (_core.cuda_build == "built")


def test_everything_public_is_at_the_top():
    for name in logits.__all__:
        assert getattr(entropic, name) is getattr(logits, name)
        assert name in entropic.__all__
    for name in entropic.__all__:
        thing = getattr(entropic, name)
        if name != "__version__":
            assert thing.__doc__, name


PACKAGE = ROOT / "entropic"
WITH_EXAMPLES = sorted(s for s in PACKAGE.rglob("*.py") if re.search(r"^ *>>> ", s.read_text(), re.M))
NEEDS = {"torch": "torch", "neighbors._selector": "sklearn"}


@pytest.mark.parametrize("module", [".".join(s.relative_to(PACKAGE).with_suffix("").parts) for s in WITH_EXAMPLES])
def test_doctests(module):
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    source = importlib.import_module(f"entropic.{module}")
    results = doctest.testmod(source, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0


SECTIONS = ["Parameters\n", "Returns\n", "Raises\n", "Notes\n", "Examples\n"]


FUNCTIONS = [n for n in entropic.__all__ if inspect.isfunction(getattr(entropic, n)) and "thread" not in n]


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "show_config"])
def test_docstrings_are_complete(name):
    doc = getattr(entropic, name).__doc__
    for section in SECTIONS:
        assert section in doc
    assert "Backends:" in doc


def includes(path):
    return re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())


def test_layers():
    """One worry a folder."""
    allowed = {"cmath", "cstddef", "cstdint", "cstring", "limits", "type_traits"}
    for header in (ROOT / "csrc/include/entropic").glob("*.hpp"):
        own = {h.name for h in header.parent.glob("*.hpp")}
        assert set(includes(header)) <= allowed | own, header
        assert not re.search(r"pybind11|cuda_runtime|std::thread|iostream|std::vector|\bnew ", header.read_text()), (
            header
        )
    for source in [*(ROOT / "csrc/cpu").rglob("*.*pp"), *(ROOT / "csrc/cuda").glob("*")]:
        assert not any("pybind11" in i or i == "Python.h" for i in includes(source)), source
    for source in [*(ROOT / "csrc/cpu").rglob("*.*pp"), *(ROOT / "csrc/bind").glob("*.*pp")]:
        assert not any("cuda_runtime" in i for i in includes(source)), source
    for source in (ROOT / "csrc").rglob("*.*pp"):
        threads = any(i in ("thread", "mutex", "condition_variable", "pthread.h") for i in includes(source))
        assert not threads or source.name == "pool.cpp", source
    for source in (ROOT / "csrc/cpu/isa").glob("*.cpp"):
        assert not re.search(r"std::(vector|function|string|sort|max|min)\b|throw\b", source.read_text()), source


def test_nothing_prints():
    for source in (ROOT / "csrc").rglob("*.*"):
        assert not re.search(r"\bf?printf\(|std::cout|std::cerr|\babort\(", source.read_text()), source


def run(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_ruff():
    pytest.importorskip("ruff")
    for arguments in (["check", "."], ["format", "--check", "."]):
        result = run(sys.executable, "-m", "ruff", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_strict():
    pytest.importorskip("mypy")
    result = run(sys.executable, "-m", "mypy", "--strict", "entropic")
    assert result.returncode == 0, result.stdout + result.stderr


def test_stub_is_the_generated_one(tmp_path):
    pytest.importorskip("pybind11_stubgen")
    result = run(sys.executable, "-m", "pybind11_stubgen", "entropic._core", "-o", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    stub = tmp_path / "entropic" / "_core.pyi"
    stub.write_text(re.sub(r"^(version|cuda_build): str = .*$", r"\1: str", stub.read_text(), flags=re.M))
    for command in (["check", "-q", "--fix"], ["format", "-q"]):
        formatted = run(sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(stub))
        assert formatted.returncode == 0, formatted.stderr
    assert stub.read_text() == (ROOT / "entropic/_core.pyi").read_text()


@pytest.mark.parametrize("directory", [ROOT, Path("/")])
def test_command_line_from_anywhere(directory):
    """The source folder in the repository's root does not shadow the installed package."""
    for command in ([sys.executable, "-m", "entropic"], [str(Path(sys.executable).parent / "entropic")]):
        result = run(*command, cwd=directory)
        assert result.returncode == 0, result.stderr
        shown = dict(line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
        assert shown["version"].strip() == entropic.__version__
        assert {"isa_compiled", "isa_active", "threads", "cuda", "devices"} <= set(shown)


def test_demo(tmp_path):
    picture, table = tmp_path / "demo.png", io.StringIO()
    assert run_demo(str(picture), table) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = table.getvalue().splitlines()
    assert "98." in next(line for line in lines if "by class" in line)
    for line in lines[3:6]:
        assert float(re.search(r"(\d\.\de-\d\d|0\.0e\+00)", line)[1]) < 1e-12


def test_demo_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    table = io.StringIO()
    assert run_demo("unused.png", table) == 1
    assert 'python -m pip install "entropic[demo]"' in table.getvalue()


def test_command_line_refuses_unknown_words(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "invalid choice" in capsys.readouterr().err


def test_headers_without_vectors(tmp_path):
    """The same headers with packs of one, as a GPU thread uses them, against long double."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    for source in sorted((ROOT / "tests/cpp").glob("*.cpp")):
        program = tmp_path / source.stem
        command = [
            compiler,
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            f"-I{ROOT / 'csrc/include'}",
            str(source),
            "-o",
            str(program),
        ]
        subprocess.run(command, check=True, timeout=300)
        result = run(str(program))
        assert result.returncode == 0, result.stdout
        assert "ok" in result.stdout
