import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from penstock.cli.main import main

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; waiting threads of several processes starve all
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=150, deadline=None)  # of `make test-all`
settings.load_profile("quick")
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--update-goldens", action="store_true", help="write tests/golden/*.txt anew")


def pytest_collection_finish():
    gc.freeze()  # all that is loaded stays, and is not walked again: in forked ranks a walk copies every page of it


@pytest.fixture
def golden(request):
    """Compare text with a golden file, or write the file anew with --update-goldens."""

    def same(name, text):
        file = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-goldens"):
            file.write_text(text)
        assert file.is_file(), f"{file} is missing; run pytest --update-goldens and look at what it writes"
        assert text == file.read_text(), f"differs from {file.name}; if that is meant: pytest --update-goldens"

    return same


@pytest.fixture
def penstock(capsys):
    """Run a command line; gives exit code, stdout and stderr."""

    def run(line):
        code = 0
        try:
            main([str(word) for word in line] if isinstance(line, list) else line.split())
        except SystemExit as leaving:
            code = leaving.code
        out = capsys.readouterr()
        return code, out.out, out.err

    keep = os.dup(1)
    yield run
    os.dup2(keep, 1)
    os.close(keep)
