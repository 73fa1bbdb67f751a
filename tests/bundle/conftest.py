"""What tests of bundles share: the small bundle for this machine, and a copy of it that a test may change."""

import shutil

import pytest

from tests.support import bundles


@pytest.fixture(scope="session")
def host():
    """Made once in a run. No test may change it."""
    return bundles.made()


@pytest.fixture
def copy(host, tmp_path):
    """Its folder once more."""
    return shutil.copytree(host.folder, tmp_path / "copy")
