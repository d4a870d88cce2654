# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from serrano_sim.golden.model import Matrix
from serrano_sim.golden.synthetic import random_model

MODEL = random_model(0, layers=1)


def test_same():
    assert MODEL.same(random_model(0, layers=1))
    assert not MODEL.same(random_model(1, layers=1))
    assert not MODEL.same(random_model(0, layers=2))
    assert not MODEL.same(dataclasses.replace(MODEL, name="another"))
    assert MODEL.group == 2
    layer = MODEL.layers[0]
    mean = layer.k_mean.copy()
    mean[0, 0] += 1
    assert not MODEL.same(dataclasses.replace(MODEL, layers=(dataclasses.replace(layer, k_mean=mean),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 12}, r"^Field 'bits' must be 8 or 16, not 12$"),
        ({"kv_heads": 3}, r"^Field 'kv_heads' must divide heads \(8\), not 3$"),
        ({"head_dim": 7}, r"^Field 'head_dim' must be even, not 7$"),
        ({"ffn": 171}, r"^Field 'layers\[0\].gate.codes' must have the shape \(171, 64\), not \(172, 64\)$"),
        ({"vocab": 98}, r"^Field 'head.codes' must have the shape \(98, 64\), not \(97, 64\)$"),
        ({"context": 65}, r"^Field 'rope' must have the shape \(65, 4, 2\), not \(64, 4, 2\)$"),
        (
            {"embedding": Matrix(MODEL.embedding.codes, np.zeros(5, dtype=np.uint16))},
            r"^Field 'embedding.scales' must have the shape \(97,\), not \(5,\)$",
        ),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MODEL, **change)


def test_refuses_codes_that_are_too_wide():
    head = Matrix(np.full(MODEL.head.codes.shape, 128, dtype=np.int16), MODEL.head.scales)
    with pytest.raises(OverflowError, match=r"^Code of head must fit in 8 bits signed, not 128 .. 128$"):
        dataclasses.replace(MODEL, head=head)
