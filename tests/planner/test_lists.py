"""Word lists in text files."""

from importlib.resources import files

import pytest

from trueline.english.lists import read_lists

FILES = [path.name.removesuffix(".txt") for path in files("trueline.english.lists").iterdir()]


def test_words_are_divided_at_spaces_or_commas_and_go_on_in_indented_lines():
    short = read_lists("short_names")
    assert short["tablet"] == {"tablet computer"}, "one phrase, by its comma"
    assert short["laptop"] == {"laptop computer", "computer laptop"}
    words = read_lists("words")
    assert words["ARTICLES"] == {"a", "an", "the"} and {"cat", "labrador"} < words["ANIMALS"]
    assert "hot air balloon" in words["COMPOUNDS"], "also over the end of a line"


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("__")])
def test_every_list_of_the_package_is_read_whole(name):
    lists = read_lists(name)
    assert lists and all(word and word == word.strip() for words in lists.values() for word in words)
    assert not any("#" in word or ":" in word for words in lists.values() for word in words)
    assert name == "coco" or all(lists.values())
