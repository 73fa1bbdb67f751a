"""`benchmarks.quantization`: what it says of a network, and which limits that misses."""

import numpy as np
import pytest

from benchmarks import quantization as evidence


def row(right: int = 18, first_five: int = 20, same: float = 0.96, cosine: float = 0.995, digits: bool = False):
    return evidence.Row("title", "auto", right, 18, first_five, 20, 20, same, cosine, 0.9, digits)


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (row(), ""),
        (row(right=17), ""),
        (row(right=16), "top-1"),
        (row(first_five=19), "top-5"),
        (row(same=0.949), "same class"),
        (row(cosine=0.989), "cosine"),
        (row(right=15, digits=True), ""),
        (row(right=14, digits=True), "digits"),
    ],
)
def test_what_misses_its_limit_is_told(found, missed):
    assert found.missed == missed


def test_scores_of_the_last_few_inputs_are_theirs():
    """Inputs come in batches; the last is filled up."""
    inputs = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
    found = evidence.scores(inputs, lambda x: x.reshape(len(x), 1) * 2)
    assert np.array_equal(found[:, 0], 2 * np.arange(10))
