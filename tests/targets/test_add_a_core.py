"""The page "Add a core", followed to the letter in a temporary folder."""

import re
from pathlib import Path

import pytest

from tests.schedules.test_any_core import SAMPLE
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "add-a-core.md").read_text()


@pytest.fixture
def folder(tmp_path):
    """The page's files, each under the name of its heading."""
    files = re.findall(r"^## \d\. [^`\n]*`([\w-]+\.toml)`\n```toml\n(.*?)```", PAGE, re.M | re.S)
    assert [name for name, _ in files] == ["my-core.toml", "my-board.toml"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_new_core_is_one_file(folder, tmp_path):
    target = targets.load(str(folder / "my-board.toml"))
    assert (target.core.vector_bytes, target.core.cpus) == (32, 2)
    kernels = {}
    for layer in map(Layer.parse, SAMPLE[:-1]):  # the last, a fused block, takes TVM seconds to lower
        space = schedules.space(layer, target.core)
        assert space.valid(space.default) == "" and space.default.get("vector", 8) == 8
        kernels.setdefault(layer.kind, schedules.kernel(layer, space.default))
    codegen.compile_kernels(kernels, target, tmp_path / "kernels.so")
    assert (tmp_path / "kernels.so").stat().st_size > 1000


def test_the_page_of_a_board_has_a_board(tmp_path):
    """ "Add a board": its file is one, of a core that ships."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "add-a-board.md").read_text()
    (tmp_path / "my-board.toml").write_text(re.search(r"^```toml\n(.*?)```", page, re.M | re.S)[1])
    target = targets.load(str(tmp_path / "my-board.toml"))
    assert (target.name, target.core.name, target.cores) == ("my-board", "cortex-a72", 2)


def test_a_key_that_is_wrong_is_named(folder):
    path = folder / "my-core.toml"
    path.write_text(path.read_text().replace("vector_bytes = 32", "vector_bytes = 24"))
    with pytest.raises(TvmMobilenetError, match=r"my-core\.toml.*vector_bytes = 24"):
        targets.load(str(folder / "my-board.toml"))
