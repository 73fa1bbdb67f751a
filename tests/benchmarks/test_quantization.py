"""`benchmarks.quantization`: what it says of a network, and which limits that misses."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import quantization as evidence
from tests.support import record_digits, trained
from tvm_mobilenet.errors import VerificationError


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


# ---- trained networks


def test_int8_recognises_the_digits_that_float32_does():
    """The network that the benchmark trains, as it was recorded: at most three of 180 more are wrong."""
    network = record_digits.recorded()
    network = replace(network, labelled=network.labelled[:180], classes=network.classes[:180])
    (found,) = evidence.rows(network, ("auto",), True, evidence.by_definition)
    assert found.of == 180 and found.right_float32 > 171 and not found.missed, found
    assert found.cosine > 0.99


@pytest.mark.full
def test_kernels_that_differ_from_the_definition_are_told(monkeypatch):
    network, definition = record_digits.recorded(), evidence.by_definition
    network = replace(network, labelled=network.labelled[:8], classes=network.classes[:8])
    assert evidence.rows(network, ("minmax",), True) == evidence.rows(network, ("minmax",), True, definition)
    monkeypatch.setattr(evidence, "by_definition", lambda *given: definition(*given) + np.float32(2**-20))
    with pytest.raises(VerificationError):
        evidence.rows(network, ("minmax",), True)


@pytest.mark.full
def test_int8_sees_in_photographs_what_float32_does():
    """torchvision's own v2: top-1 at most one less, top-5 none, on 20 labelled photographs; the same class of crops."""
    network = evidence.mobilenet_v2(trained.folder(), 12)
    (found,) = evidence.rows(network, ("auto",))
    assert found.of == 20 and found.right_float32 == 18 and found.first_five_float32 == 20
    assert found.right >= 17 and found.first_five == 20 and found.cosine > 0.99 and found.same >= 10 / 12
