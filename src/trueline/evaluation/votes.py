"""A user study: a page of blind side-by-side pairs, and the score of the votes that it saves.

The page shows two pictures of one prompt and seed, drawn by two methods. Which is which stands in ``key.json``
alone, which the raters do not get: the page holds opaque ids and pictures that were encoded anew, without name or
metadata. Two questions a pair, each answered left, right or same.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from trueline.evaluation.metrics.statistics import crossed_mean
from trueline.evaluation.report import Shot, make_cases, render, thumbnails
from trueline.files import write_text

FORMAT = "trueline-votes-1"
PAIRS = 60  #: in a page: about ten minutes
SIDE = 512  #: longer side of a picture, pixels
QUESTIONS = {
    "alignment": "Which picture fits the text better?",
    "quality": "Which picture looks better in itself?",
}
ANSWERS = ("left", "same", "right")
MAX_BYTES = 10_000_000  #: of a file of votes
_ENTRY = {"example", "seed", "prompt", "left", "right"}  #: what the key says of a pair


@dataclass(frozen=True)
class Study:
    """What ``write_study`` made: the page for the raters, the key for the author."""

    page: Path
    key: Path
    pairs: int
    notes: tuple[str, ...]


def write_study(
    folder: str | Path,
    title: str,
    shots: Sequence[Shot],
    methods: Sequence[str] | None = None,
    *,
    seed: int = 0,
    limit: int = PAIRS,
    benchmark: str = "",
    model: str = "",
) -> Study:
    """Write ``vote.html`` and ``key.json`` into ``folder``.

    Args:
        methods: the first is compared with each of the others; None: all, in the order of the shots.
        seed: of which ``limit`` pairs are shown, in which order, and which picture is on the left.

    Raises:
        ValueError: fewer than two methods, no pair, a title that names a method.
    """
    methods = list(dict.fromkeys(shot.method for shot in shots)) if methods is None else list(methods)
    _check_methods(methods, shots, title)
    rng = np.random.default_rng(seed)
    found = [
        (case.shots[methods[0]], case.shots[other])
        for case in make_cases(shots)
        for other in methods[1:]
        if methods[0] in case.shots and other in case.shots
    ]
    chosen = [found[i] for i in rng.permutation(len(found))[:limit]]
    pictures, notes = thumbnails([shot for pair in chosen for shot in pair], SIDE)
    whole = [(a, b) for a, b in chosen if a.path in pictures and b.path in pictures]
    if not whole:
        reason = notes[0] if notes else f"no example was drawn by {methods[0]} and another of the methods"
        raise ValueError(f"no pair to vote on: {reason}")
    if len(found) > limit:
        notes.append(f"{limit} of {len(found)} pairs were drawn at random.")
    if len(whole) < len(chosen):
        notes.append(f"Pairs left out because a picture cannot be shown: {len(chosen) - len(whole)}.")

    # the first method is on the left as often as on the right
    sides = rng.permutation(np.arange(len(whole)) % 2)
    study = _digest(json.dumps([title, seed, [[_name(a), _name(b)] for a, b in whole]]))
    entries, shown = {}, []
    for place, (pair, swap) in enumerate(zip(whole, sides, strict=True)):
        left, right = reversed(pair) if swap else pair
        name = _digest(f"{study}:{place}")
        entries[name] = _entry(pair[0], left, right)
        uris = {"left": pictures[left.path].uri, "right": pictures[right.path].uri}
        shown.append({"id": name, "prompt": pair[0].prompt} | uris)
    data = {"format": FORMAT, "study": study, "questions": QUESTIONS, "pairs": shown}
    about = {"title": title, "seed": seed, "methods": methods, "benchmark": benchmark, "model": model}
    key = {"format": FORMAT, "study": study} | about | {"questions": QUESTIONS, "pairs": entries}
    target = Path(folder)
    write_text(target / "key.json", json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    write_text(target / "vote.html", render("vote.html", script="vote.js", title=title, data=data))
    return Study(target / "vote.html", target / "key.json", len(whole), tuple(notes))


def _entry(first: Shot, left: Shot, right: Shot) -> dict[str, Any]:
    """What the key says of a pair."""
    return {
        "example": first.example,
        "seed": first.seed,
        "category": first.category,
        "prompt": first.prompt,
        "left": left.method,
        "right": right.method,
    }


def _check_methods(methods: Sequence[str], shots: Sequence[Shot], title: str) -> None:
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise ValueError(
            f"methods: a vote needs at least two different ones (got {', '.join(methods) or 'none'})"
        )
    drawn = {shot.method for shot in shots}
    if missing := [method for method in methods if method not in drawn]:
        raise ValueError(
            f"methods: no picture by {missing[0]}; there are {', '.join(sorted(drawn)) or 'none'}"
        )
    if named := [method for method in methods if method.lower() in title.lower()]:
        raise ValueError(f"title: names the method {named[0]}, which raters must not know; choose another")


def _name(shot: Shot) -> list[Any]:
    return [shot.example, shot.seed, shot.method]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Vote:
    """``score``: 1 when the later method won, 0 when the first did, 0.5 for "same"."""

    question: str
    method: str
    prompt: str
    rater: str
    pair: str
    score: float


def score_votes(
    files: Iterable[str | Path], key: str | Path, *, command: str = "", commit: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of ``results.json`` (``tables`` says what is in one), and notes on what was not counted.

    ``alignment_win_rate`` and ``quality_win_rate`` of each method against the first: won votes, ties half, over all
    votes; ``n`` counts votes. Their 95% interval resamples prompts and, where there are several, raters (Owen 2007,
    "The pigeonhole bootstrap", doi:10.1214/07-AOAS122): votes on one prompt, and of one person, are alike. Several
    files add ``alignment_agreement`` and ``quality_agreement``: Krippendorff's alpha over the answers as nominal
    data (1: all agree, 0: as by chance).

    Raises:
        ValueError: a file that is broken, of another study, or of a rater who is there already.
    """
    opened = _read_key(Path(key))
    pairs, methods = opened["pairs"], opened["methods"]
    votes: list[_Vote] = []
    notes: list[str] = []
    raters: dict[str, Path] = {}
    for file in map(Path, files):
        ballot = _read(file, "votes")
        if ballot.get("study") != opened["study"]:
            raise ValueError(f"{file}: votes of another study; give those of the page beside {key}")
        rater, answers = ballot.get("rater"), ballot.get("votes")
        if not isinstance(rater, str) or not isinstance(answers, dict):
            raise ValueError(f"{file}: lacks its rater or its votes; save it anew from the page")
        if rater in raters:
            raise ValueError(f"{file}: the same rater as {raters[rater]}; keep the newer file")
        raters[rater] = file
        found, remarks = _ballot(answers, rater, pairs, methods[0])
        votes += found
        notes += [f"{file.name}: {remark}" for remark in remarks]
    if not votes:
        raise ValueError(f"no votes to score; {'; '.join(notes) or 'give the files that the page saves'}")
    shared = {
        "benchmark": opened.get("benchmark") or "user study",
        "model": opened.get("model", ""),
        "category": "",
        "images_per_prompt": 1,
        "command": command,
        "commit": commit,
        "against": methods[0],
    }
    rows = []
    for question in QUESTIONS:
        for method in methods[1:]:
            chosen = [vote for vote in votes if (vote.question, vote.method) == (question, method)]
            if chosen:
                seeds = sorted({pairs[vote.pair]["seed"] for vote in chosen})
                rows += [shared | {"seeds": seeds, "method": method} | row for row in _rows(question, chosen)]
    return rows, notes


def _read_key(path: Path) -> dict[str, Any]:
    key = _read(path, "a key")
    pairs, methods = key.get("pairs"), key.get("methods")
    whole = isinstance(pairs, dict) and all(
        isinstance(p, dict) and p.keys() >= _ENTRY for p in pairs.values()
    )
    if not whole or not isinstance(methods, list) or len(methods) < 2 or "study" not in key:
        raise ValueError(f"{path}: is no key.json of a study; give the one that lies beside vote.html")
    return key


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: larger than {MAX_BYTES / 1e6:.0f} MB, so it cannot be {what}")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{path}: broken, not JSON; save it anew from the page") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: is not {what} of this version ({FORMAT}); save it anew from the page")
    return content


def _ballot(
    answers: Mapping[str, Any], rater: str, pairs: Mapping[str, Any], first: str
) -> tuple[list[_Vote], list[str]]:
    """The votes of one rater, and a remark for each kind of answer that was not counted."""
    votes, ignored = [], Counter[str]()
    for pair, given in answers.items():
        if pair not in pairs:
            ignored["votes on unknown pairs"] += 1
            continue
        entry = pairs[pair]
        for question in QUESTIONS:
            answer = given.get(question) if isinstance(given, dict) else None
            if answer is None:
                ignored["unanswered questions"] += 1
            elif answer not in ANSWERS:
                ignored["answers other than left, same or right"] += 1
            else:
                method = entry["right"] if entry["left"] == first else entry["left"]
                won = 0.5 if answer == "same" else float(entry[answer] == method)
                votes.append(_Vote(question, method, entry["prompt"], rater, pair, won))
    remarks = [f"ignored {kind}: {count}" for kind, count in ignored.items()]
    if open_pairs := len(pairs.keys() - answers.keys()):
        remarks.append(f"{open_pairs} of {len(pairs)} pairs not voted on")
    return votes, remarks


def _rows(question: str, votes: Sequence[_Vote]) -> list[dict[str, Any]]:
    """Win rate and, with several raters, agreement: what the rows say besides what all rows share."""
    raters = {vote.rater for vote in votes}
    won = crossed_mean(
        [vote.score for vote in votes], [vote.prompt for vote in votes], [vote.rater for vote in votes]
    )
    people = f"{len(raters)} rater{'s' * (len(raters) != 1)}, {len({vote.prompt for vote in votes})} prompts"
    over = "prompts and raters" if len(raters) > 1 else "prompts"
    rows: list[dict[str, Any]] = [
        {
            "metric": f"{question}_win_rate",
            "value": won.value,
            "low": won.low,
            "high": won.high,
            "n": won.n,
            "protocol": f"blind pairs, ties half; n counts votes; {people}; bootstrap over {over}",
        }
    ]
    if len(raters) > 1:
        answers: dict[str, list[float]] = {}
        for vote in votes:
            answers.setdefault(vote.pair, []).append(vote.score)
        rows.append(
            {
                "metric": f"{question}_agreement",
                "value": alpha(list(answers.values())),
                "low": None,
                "high": None,
                "n": len(votes),
                "protocol": f"Krippendorff's alpha, nominal; n counts votes; {people}",
            }
        )
    return rows


def alpha(answers: Iterable[Sequence[Any]]) -> float | None:
    """Krippendorff's alpha for nominal data; one list of answers a unit, of any length.

    1 - observed / expected disagreement, over units with at least two answers; None where there is none, 1 where
    all gave the same answer everywhere. (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".)
    """
    units = [list(unit) for unit in answers if len(unit) > 1]
    values = Counter(value for unit in units for value in unit)
    total = sum(values.values())
    if not total:
        return None
    observed = (
        sum(2 * sum(a != b for a, b in combinations(unit, 2)) / (len(unit) - 1) for unit in units) / total
    )
    expected = 1 - sum(count * (count - 1) for count in values.values()) / (total * (total - 1))
    return 1.0 if expected == 0 else 1 - observed / expected
