"""GenEval 2 (Kamath et al. 2025, arXiv 2512.16853): 800 prompts of 3 to 10 atoms, and their questions.

Soft-TIFA: how sure is a model that answers questions of the right answer to each? Of one picture, the arithmetic mean
over its questions (``soft_tifa_am``, for atoms) or the geometric mean (``soft_tifa_gm``, for prompts); the figure is
the mean over the prompts. By skill (object, attribute, count, position, verb): the mean over that skill's questions
of all prompts. By number of atoms: the categories.

Source: facebookresearch/GenEval2@a6e82d2289e8, ``evaluation.py`` and ``soft_tifa_analysis.py``, run beside
ours on 1,000 random pictures: no difference above 1e-12. There the model is Qwen3-VL-8B-Instruct, each
question ends in "Answer in one word.", and the probability of an answer is the sum over the first tokens of its
spellings: of a count its word, its digits, with a capital, after a space; of all else "Yes", whatever the file says.
No mode, for the rule has no quirk; a geometric mean with a 0 is 0.

What differs: any answerer answers, so a figure is named after it, and figures of two answerers are not comparable;
BLIP-VQA is asked without "Answer in one word.", which it was not trained on. A token that two spellings share counts
once. Numbers above ten are known by their word only (the script also lets "other" count; no prompt of the file asks
for one). A file with another answer than a number or "Yes" is refused. VQAScore and TIFA, which the script offers for
comparison, are not here. Figures are 0..1, the script's are 0..100.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from trueline.evaluation.benchmarks._collect import Collector, row_of, some
from trueline.evaluation.benchmarks.benchmark import Asked, Benchmark, Example, Needs, Source, data_folder
from trueline.evaluation.metrics.observations import Observations
from trueline.files import read_json_lines

SOURCE = Source("facebookresearch/GenEval2", "a6e82d2289e8", "CC BY-NC 4.0")
SKILLS = ("object", "attribute", "count", "position", "verb")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTS = "How many"  # how a question about a number begins


class GenEval2(Benchmark):
    """``category``: ``3-atoms`` to ``10-atoms``. ``truth``: ``questions``, pairs of question and answer, and
    ``skills``, one of each. Ids: ``geneval-2-000012``, by line of the file from 0."""

    name = "geneval-2"
    needs: ClassVar[Needs] = {
        "soft_tifa_am, soft_tifa_gm": ("answerer",),
        "clip_score": ("embedder",),
    }
    asks = True

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "geneval2" / "geneval2_data.jsonl"
        collector = Collector(self.name)
        for line, row in some(read_json_lines(path, SOURCE.cure), path, SOURCE.cure):
            with row_of(path, line, SOURCE.cure):
                truth = {"questions": _pairs(row["vqa_list"]), "skills": row["skills"]}
                _check(truth["skills"], len(truth["questions"]), row["atom_count"])
                category = f"{row['atom_count']}-atoms"
                collector.add(f"{self.name}-{line - 1:06d}", row["prompt"], category, truth)
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def questions(example: Example) -> list[Asked]:
        return [(question, spellings(question, answer)) for question, answer in example.truth["questions"]]

    @staticmethod
    def score_answers(example: Example, answers: Sequence[float]) -> Observations:
        return soft_tifa(answers, example.truth["skills"])


def _pairs(given: Any) -> list[list[str]]:
    if not isinstance(given, list) or not given:
        raise ValueError("vqa_list must be a list of pairs of question and answer")
    for pair in given:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"vqa_list has pairs of question and answer (got {pair!r:.60})")
        question, answer = pair
        if not question.startswith(_COUNTS) and answer.lower() != "yes":
            raise ValueError(f"the answer to {question!r:.60} must be Yes (got {answer!r:.20})")
        if not answer.strip():
            raise ValueError(f"the answer to {question!r:.60} is empty")
    return given


def _check(skills: Any, questions: int, atoms: Any) -> None:
    if type(atoms) is not int or atoms < 1:
        raise ValueError(f"atom_count must be a whole number from 1 (got {atoms!r:.20})")
    if not isinstance(skills, list) or len(skills) != questions:
        raise ValueError(f"skills must be a list of one skill for each of the {questions} questions")
    if unknown := [skill for skill in skills if skill not in SKILLS]:
        raise ValueError(f"skills must be of {', '.join(SKILLS)} (got {unknown[0]!r:.20})")


# The rule


def spellings(question: str, answer: str) -> tuple[str, ...]:
    """How a right answer may begin: "four", "Four", "4" and these after a space; "Yes" where nothing is counted."""
    if not question.startswith(_COUNTS):
        return ("Yes", "yes", " yes", " Yes")
    words = [answer, answer.capitalize()]
    if answer in _NUMBERS:
        words.append(str(_NUMBERS.index(answer) + 1))
    return tuple(before + word for word in words for before in ("", " "))


def soft_tifa(answers: Sequence[float], skills: Sequence[str]) -> Observations:
    """``soft_tifa_am`` and ``soft_tifa_gm`` of one picture, and ``soft_tifa_SKILL`` of each skill it is asked about.

    Args:
        answers: probability, 0..1, of the right answer to each question.
        skills: of each question.

    Raises:
        ValueError: no answers, not one for each skill, or one outside 0..1.
    """
    if not answers or len(answers) != len(skills):
        raise ValueError(f"answers: give one for each of the {len(skills)} skills (got {len(answers)})")
    if wrong := [value for value in answers if not 0 <= value <= 1]:
        raise ValueError(f"answers: must be probabilities, 0..1 (got {wrong[0]:g})")
    count = len(answers)
    # Not the root of the product, which is 0 in floats for many small answers.
    geometric = math.exp(math.fsum(map(math.log, answers)) / count) if all(answers) else 0.0
    scores = {"soft_tifa_am": (math.fsum(answers) / count, 1.0), "soft_tifa_gm": (geometric, 1.0)}
    for skill in SKILLS:
        of_skill = [value for value, own in zip(answers, skills, strict=True) if own == skill]
        if of_skill:
            scores[f"soft_tifa_{skill}"] = (math.fsum(of_skill), float(len(of_skill)))
    return scores
