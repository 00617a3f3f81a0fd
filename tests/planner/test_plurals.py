"""The one helper for plurals, singulars and articles."""

import subprocess
import sys

import pytest

from trueline.english.plurals import article, plural, plurals, singular


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cat", "cats"),
        ("teddy bear", "teddy bears"),
        ("knife", "knives"),
        ("sheep", "sheep"),
        ("bus", "buses"),
    ],
)
def test_plural(one, many):
    assert plural(one) == many
    assert singular(many.split()[-1]) == one.split()[-1]


@pytest.mark.parametrize("words", ["an apple", "a unicorn", "an hourglass", "a red apple", "an old cat"])
def test_article(words):
    assert article(words.partition(" ")[2]) == words


def test_a_text_may_write_a_plural_in_two_ways():
    assert plurals("red tomato") == ["red tomatoes", "red tomatos"]
    assert (
        plurals("Person") == ["people"] and plurals("toy") == ["toys"] and plurals("cherry") == ["cherries"]
    )
    assert plurals("") == ["s"]


def test_inflect_is_loaded_by_what_writes_alone_and_without_its_checks_at_run_time():
    code = """if True:
        import sys, time
        from trueline.english.plurals import plural, plurals, singular
        assert plurals("cat") and singular("cats") and "inflect" not in sys.modules
        plural("cat")
        import inflect, typeguard
        assert "typeguard" not in inflect.engine.plural_noun.__code__.co_names
        assert typeguard.typechecked.__name__ == "typechecked", "as it was"
    """
    subprocess.run([sys.executable, "-c", code], check=True)
