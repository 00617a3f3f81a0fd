"""Which pictures a run draws, and in which batches."""

import pytest

from trueline.engine import Shard
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.drawing_list import batches, choose, wanted
from trueline.layout import Layout


def examples(**sizes: int) -> list[Example]:
    return [
        Example(f"{name}-{i}", Layout("a cat"), name) for name, size in sizes.items() for i in range(size)
    ]


def test_a_choice_keeps_the_shares_of_the_categories():
    every = examples(color=60, spatial=30, complex=10)
    chosen = [every[place].category for place in choose(every, 20)]
    assert {name: chosen.count(name) for name in set(chosen)} == {"color": 12, "spatial": 6, "complex": 2}


def test_smaller_choices_are_parts_of_larger_ones_in_the_official_order():
    every = examples(color=7, spatial=13)
    for n in range(1, 20):
        smaller, larger = choose(every, n), choose(every, n + 1)
        assert set(smaller) < set(larger)
        assert smaller == sorted(smaller)
    assert choose(every, None) == list(range(20))


@pytest.mark.parametrize("n", [0, -1, 21])
def test_an_impossible_number_is_named(n):
    with pytest.raises(ValueError, match=r"^n: must be from 1 to 20"):
        choose(examples(color=20), n)


def test_noise_depends_on_the_prompt_and_the_seed_only():
    every = examples(color=10, spatial=10)
    few, all_of_them = (wanted(every, choose(every, n), [3, 5]) for n in (4, None))
    noise = {picture.name: (picture.seed, picture.place) for picture in all_of_them}
    assert all(noise[picture.name] == (picture.seed, picture.place) for picture in few)
    assert len(set(noise.values())) == len(all_of_them) == 40


def test_shards_share_the_batches_out_without_a_rest():
    pictures = wanted(examples(color=25), range(25), [0])
    parts = batches(pictures, 4)
    assert [len(part) for part in parts] == [4] * 6 + [1]
    taken = [n for i in (1, 2, 3) for n in range(len(parts)) if Shard(i, 3).takes(n)]
    assert sorted(taken) == list(range(len(parts)))


def test_a_batch_has_one_size_of_pictures():
    mixed = [Example(f"x-{i}", Layout("a cat", width=64 + 64 * (i % 2), height=64)) for i in range(6)]
    for batch in batches(wanted(mixed, range(6), [0]), 4):
        assert len({picture.example.layout.width for picture in batch}) == 1


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "a/b", "1/", "-1/2"])
def test_a_shard_is_written_in_one_way(text):
    with pytest.raises(ValueError, match=r"^shard: write it as"):
        Shard.parse(text)
