"""What every interop test starts from: the binary, the models, and a place for measurements.

Run as `REWEIGHT=target/release/reweight .venv/bin/python -m pytest tests/interop -q` after
`tests/interop/setup.sh` and `tools/fetch-models`. Whatever is missing is a failure, never a skip.
"""

import json
import os
import pathlib
import subprocess

import pytest
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GGUF = ROOT / "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)

_measured: list[str] = []


@pytest.fixture
def measured():
    """Takes lines that are printed after the tests, pass or fail."""
    return _measured.append


def pytest_terminal_summary(terminalreporter):
    if _measured:
        terminalreporter.section("measured")
        for line in _measured:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def reweight():
    """Runs the binary; gives its JSON document when `--json` is among the words."""
    path = os.environ.get("REWEIGHT")
    if not path or not os.access(path, os.X_OK):
        pytest.fail(f"set REWEIGHT to the release binary (it is {path!r})", pytrace=False)

    def run(*words, status=0):
        command = [os.path.abspath(path), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        told = f"{' '.join(command)}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == status, told
        return json.loads(done.stdout) if "--json" in words else done.stdout

    return run


def present(path: pathlib.Path) -> pathlib.Path:
    if not path.exists():
        pytest.fail(f"`{path}` is missing: run tools/fetch-models", pytrace=False)
    return path


@pytest.fixture(scope="session")
def gguf():
    return present(GGUF)


@pytest.fixture(scope="session")
def minilm():
    present(ROOT / "models/minilm/model.safetensors")
    return ROOT / "models/minilm"


@pytest.fixture(scope="session")
def demo():
    present(ROOT / "assets/demo/model.safetensors")
    return ROOT / "assets/demo"


@pytest.fixture(scope="session")
def heldout():
    return present(ROOT / "assets/demo/text/heldout.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def smollm2(reweight, gguf, tmp_path_factory):
    """SmolLM2 as a bf16 folder, imported from the GGUF by the binary."""
    folder = tmp_path_factory.mktemp("smollm2") / "bf16"
    reweight("convert", gguf, folder, "--to", "bf16")
    return folder
