"""What the tests of the nets that look share."""

import numpy as np
import pytest

from trueline.world import language
from trueline.world.scenes import make_scene, render
from trueline.world.training_pictures import FIRST, Trips


@pytest.fixture(scope="module")
def tokenizer():
    return language.train_tokenizer(language.sample_captions(300))


@pytest.fixture(scope="module")
def trips():
    return Trips(np.stack([render(make_scene("train", FIRST + i)) for i in range(3)]))
