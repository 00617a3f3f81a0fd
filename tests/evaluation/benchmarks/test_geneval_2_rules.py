"""Soft-TIFA by hand and against numpy, what is asked, and the answers' way from a model to the table."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from benchmark_forms import FORMS, examples, write
from PIL import Image

from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.geneval_2 import SKILLS, soft_tifa, spellings
from trueline.evaluation.judges import OwnQuestions, make_judges, unmeasured


def test_means_by_hand():
    found = soft_tifa([0.5, 0.125, 1.0], ["count", "object", "object"])
    assert found == {
        "soft_tifa_am": (pytest.approx(1.625 / 3), 1),
        "soft_tifa_gm": (pytest.approx(0.0625 ** (1 / 3)), 1),
        "soft_tifa_object": (1.125, 2),
        "soft_tifa_count": (0.5, 1),
    }


def test_one_atom_that_is_surely_wrong_makes_the_geometric_mean_0():
    found = soft_tifa([1.0, 0.0], ["object", "verb"])
    assert (found["soft_tifa_gm"], found["soft_tifa_am"]) == ((0, 1), (0.5, 1))


def test_many_small_answers_do_not_vanish():
    assert soft_tifa([1e-200, 1e-200], ["object"] * 2)["soft_tifa_gm"][0] == pytest.approx(1e-200)


def test_against_numpy_on_1000_pictures():
    draw = np.random.default_rng(0)
    for _ in range(1000):
        count = draw.integers(1, 15)
        answers = draw.random(count) ** draw.integers(1, 9)
        skills = draw.choice(SKILLS, count)
        found = soft_tifa(answers.tolist(), skills.tolist())
        wanted = {"am": answers.mean(), "gm": np.prod(answers ** (1 / count))}
        sums = {skill: answers[skills == skill] for skill in set(skills)}
        assert {name: pair[0] for name, pair in found.items()} == {
            **{f"soft_tifa_{name}": pytest.approx(value, rel=1e-9) for name, value in wanted.items()},
            **{f"soft_tifa_{skill}": pytest.approx(some.sum()) for skill, some in sums.items()},
        }
        assert all(found[f"soft_tifa_{skill}"][1] == len(some) for skill, some in sums.items())


def test_spellings():
    four = {"four", "Four", "4", " four", " Four", " 4"}
    assert set(spellings("How many cats are in the image?", "four")) == four
    assert set(spellings("Are the cats red?", "Yes")) == {"Yes", "yes", " Yes", " yes"}
    assert set(spellings("How many cats?", "twelve")) == {"twelve", "Twelve", " twelve", " Twelve"}


@pytest.mark.parametrize(
    ("answers", "skills", "problem"),
    [
        ([], [], "give one for each of the 0 skills"),
        ([0.5], ["object", "verb"], r"give one for each of the 2 skills \(got 1\)"),
        ([1.5], ["object"], r"must be probabilities, 0..1 \(got 1.5\)"),
        ([float("nan")], ["object"], "must be probabilities"),
    ],
)
def test_answers_that_are_none(answers, skills, problem):
    with pytest.raises(ValueError, match=f"answers: {problem}"):
        soft_tifa(answers, skills)


class Knowing:
    """Answers by a table, and keeps what it was asked."""

    name = "knowing"
    table: ClassVar[dict[str, float]] = {"How many": 0.25, "Are there": 0.5, "Are the": 1.0}

    def __init__(self):
        self.asked = []

    def says(self, images, questions, answers):
        self.asked += [(i.size, q, right) for i, q, right in zip(images, questions, answers, strict=True)]
        begins = [next(p for begin, p in self.table.items() if q.startswith(begin)) for q in questions]
        return torch.tensor(begins)


def test_each_question_goes_to_its_picture_and_its_answer_into_the_rule(tmp_path):
    write(tmp_path, FORMS["geneval-2"])
    example = examples(tmp_path, "geneval-2")[0]
    model = Knowing()
    judge = OwnQuestions(model, benchmark_class("geneval-2"))
    seen = judge.look([example, example], [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))])
    assert [size for size, *_ in model.asked] == [(8, 8)] * 3 + [(9, 9)] * 3
    assert model.asked[0][1:] == ("How many cats are there?", ("two", " two", "Two", " Two", "2", " 2"))
    assert len(seen) == 2
    for each in seen:
        assert each["ratio/soft_tifa_gm[knowing]"].tolist() == [pytest.approx(0.5), 1]
        assert each["ratio/soft_tifa_am[knowing]"].tolist() == [pytest.approx(1.75 / 3), 1]
        assert each["ratio/soft_tifa_count[knowing]"].tolist() == [0.25, 1]
    assert "geneval-2" in judge.protocol


def test_which_model_it_needs_is_said():
    said = unmeasured(benchmark_class("geneval-2"), ["world-clip"])
    assert said == [
        "not measured: soft_tifa_am, soft_tifa_gm (for it, give judges blip-vqa=Salesforce/blip-vqa-base)"
    ]


def test_an_answerer_gets_the_benchmarks_questions_or_those_of_b_vqa(monkeypatch):
    monkeypatch.setattr("trueline.evaluation.judges.load", lambda *_: Knowing())
    kinds = {
        name: type(make_judges(["blip-vqa=x"], benchmark_class(name), "official", "cpu", "float32", False)[0])
        for name in ("geneval-2", "t2i-compbench")
    }
    assert {name: kind.__name__ for name, kind in kinds.items()} == {
        "geneval-2": "OwnQuestions",
        "t2i-compbench": "Questions",
    }
