"""Looks on the way: scores, the best step kept, an early stop, and that all of it goes on bit for bit."""

import json

import pytest
import torch
from training_builders import After, fit

from trueline.training.loop import TrainingLoop
from trueline.training.settings import Optimisation, Training, Validation
from trueline.training.validation import Validator

QUICK = {"batch": 2, "warmup": 0, "lr": 0.01, "log_every": 2, "save_every": 3, "precision": "fp32"}
FALLS_AFTER_4 = {0: 0.1, 2: 0.5, 4: 0.9, 6: 0.7, 8: 0.8, 10: 0.6}
RISES = {step: step / 20 for step in range(0, 20, 2)}


def validating(folder, plain, scores=None, plan=None, patience=2, **more) -> tuple[TrainingLoop, Validator]:
    """A run whose looks are given: a score, and a diversity that is the step's own."""
    scores = FALLS_AFTER_4 if scores is None else scores
    steps: list[int] = []

    def draw(step, writer):
        steps.append(step)
        torch.rand(3)  # a reward may draw from torch's own generator
        return {"held_out": scores[step], "diversity": 2.0 - step / 10}

    settings, depends_on = Validation(every=2, patience=patience), more.pop("depends_on", "these")
    validator = Validator(settings, draw, True, "held_out", home=folder, depends_on=depends_on)
    validator.steps = steps
    made, _ = fit(
        folder, plain, plan or Optimisation(**QUICK, steps=12, ema=0.9), validator=validator, **more
    )

    def save(target):
        state = {name: weight.detach().clone() for name, weight in made.trained.items()}
        torch.save(state, target / "weights.pt")

    validator.save = save
    return made, validator


def best_of(folder) -> tuple[dict, dict]:
    about = json.loads((folder / "best" / "best.json").read_text())
    return about, torch.load(folder / "best" / "weights.pt", weights_only=True)


def lines(folder) -> list[dict]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_stops_where_the_score_falls_and_keeps_the_best_step(tmp_path, plain):
    run, validator = validating(tmp_path / "run", plain)
    averages = {}
    for line in run:
        averages[line["step"]] = {n: v.clone() for n, v in run.average.values.items()}
    assert validator.steps == [0, 2, 4, 6, 8] and run.step == 8
    assert run.finished and run.stopped_early and run.checkpoints.newest().step == 8
    about, kept = best_of(tmp_path / "run")
    assert about == {"score": "held_out", "step": 4, "value": 0.9, "waited": 0}
    assert same(kept, averages[4]) and not same(kept, averages[8]), "the averaged weights of step 4"
    scored = [line for line in lines(tmp_path / "run") if "look/held_out" in line]
    assert [line["step"] for line in scored] == [0, 2, 4, 6, 8]
    assert scored[2] == {"step": 4, "look/held_out": 0.9, "look/diversity": 1.6, "look/diversity_kept": 0.8}

    again, validator = validating(tmp_path / "run", plain)
    assert again.finished and list(again) == [] and validator.steps == [], "it is done"
    longer, validator = validating(tmp_path / "run", plain, patience=3)
    list(longer)
    assert validator.steps == [10] and longer.step == 10 and best_of(tmp_path / "run")[0]["step"] == 4


def test_without_patience_it_never_stops_and_the_best_is_kept_all_the_same(tmp_path, plain):
    run, _ = validating(tmp_path, plain, FALLS_AFTER_4 | {12: 0.2}, patience=0)
    list(run)
    assert run.step == 12 and not run.stopped_early and best_of(tmp_path)[0]["step"] == 4


@pytest.mark.parametrize("questions", [0, 3, 5], ids=["at-once", "before-the-best", "after-it"])
def test_a_stopped_run_goes_on_bit_for_bit_with_what_it_saw(tmp_path, plain, questions):
    whole, one = validating(tmp_path / "whole", plain)
    list(whole)
    first, _ = validating(tmp_path / "parts", plain, stop=After(questions))
    list(first)
    assert first.step == questions and not first.finished
    second, other = validating(tmp_path / "parts", plain)
    list(second)
    assert second.step == 8 and one.state() == other.state()
    assert other.steps == [step for step in (0, 2, 4, 6, 8) if step > questions]
    weights = [{n: w.detach() for n, w in run.trained.items()} for run in (whole, second)]
    assert same(*weights) and same(whole.average.values, second.average.values)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    ours, theirs = best_of(tmp_path / "whole"), best_of(tmp_path / "parts")
    assert ours[0] == theirs[0] and same(ours[1], theirs[1])


def test_looking_changes_nothing_of_what_is_learned(tmp_path, plain):
    plan = Optimisation(**QUICK, steps=6)
    blind, _ = fit(tmp_path / "blind", plain, plan)
    list(blind)
    seeing, _ = validating(tmp_path / "seeing", plain, RISES, plan)
    list(seeing)
    assert same(*({n: w.detach() for n, w in run.trained.items()} for run in (blind, seeing)))


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_around_the_checkpoint_of_a_new_best(tmp_path, plain, monkeypatch, where):
    """In the midst of a new best: with its checkpoint or without it, ``best`` comes out right."""
    whole, _ = validating(tmp_path / "whole", plain)
    list(whole)
    killed, validator = validating(tmp_path / "killed", plain)
    write, save = validator.keep, killed._save

    def dies(*_):
        if killed.step != 4:
            return write() if where == "after" else save()
        raise KeyboardInterrupt

    if where == "after":
        validator.keep = dies
    else:
        killed._save = dies
    with pytest.raises(KeyboardInterrupt):
        list(killed)
    assert best_of(tmp_path / "killed")[0]["step"] == 2
    again, _ = validating(tmp_path / "killed", plain)
    assert again.step == {"after": 4, "before": 3}[where]
    list(again)
    ours, theirs = best_of(tmp_path / "whole"), best_of(tmp_path / "killed")
    assert ours[0] == theirs[0] and same(ours[1], theirs[1])
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")


@pytest.mark.parametrize("at", [4, 8], ids=["on-the-way", "the-last"])
def test_a_look_that_fails_loses_no_step_and_is_taken_again(tmp_path, plain, at):
    whole, _ = validating(tmp_path / "whole", plain)
    list(whole)
    failing, validator = validating(tmp_path / "failing", plain)
    draw = validator.draw

    def fails(step, writer):
        if step == at:
            raise RuntimeError("out of memory")
        return draw(step, writer)

    validator.draw = fails
    with pytest.raises(RuntimeError, match="out of memory"):
        list(failing)
    again, validator = validating(tmp_path / "failing", plain)
    assert again.step == at, "the last checkpoint before was of an earlier step"
    list(again)
    assert validator.steps[0] == at and again.step == 8
    weights = [{n: w.detach() for n, w in run.trained.items()} for run in (whole, again)]
    assert same(*weights) and lines(tmp_path / "whole") == lines(tmp_path / "failing")
    ours, theirs = best_of(tmp_path / "whole"), best_of(tmp_path / "failing")
    assert ours[0] == theirs[0] and same(ours[1], theirs[1])


def test_killed_before_the_first_checkpoint_its_first_look_is_there_once(tmp_path, plain):
    killed, validator = validating(tmp_path, plain)
    killed._save = lambda: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(killed)
    again, validator = validating(tmp_path, plain)
    list(again)
    assert validator.steps[0] == 0 and [line["step"] for line in lines(tmp_path)].count(0) == 1


def test_a_best_that_is_half_written_leaves_the_one_before(tmp_path, plain):
    run, validator = validating(tmp_path, plain, RISES)
    write = validator.save

    def fails(target):
        write(target)
        if run.step == 4:
            raise OSError("disk full")

    validator.save = fails
    with pytest.raises(OSError, match="disk full"):
        list(run)
    assert best_of(tmp_path)[0]["step"] == 2


def test_a_best_that_was_removed_is_said(tmp_path, plain):
    run, _ = validating(tmp_path, plain, stop=After(7))
    list(run)
    for file in (tmp_path / "best").iterdir():
        file.unlink()
    again, _ = validating(tmp_path, plain)
    with pytest.warns(UserWarning, match="best is gone, and with it the weights of the best step, 4"):
        list(again)


def test_other_pictures_than_before_are_not_compared_with(tmp_path, plain):
    run, _ = validating(tmp_path, plain, stop=After(5))
    list(run)
    with pytest.warns(UserWarning, match="its pictures are other ones .* the best step is sought anew"):
        again, validator = validating(tmp_path, plain, FALLS_AFTER_4 | {12: 0.2}, depends_on="others")
    list(again)
    assert validator.best.step == 8 and validator.steps == [6, 8, 10, 12]
    assert "look/diversity_kept" not in lines(tmp_path)[-1], "there is no base among those"


def test_scores_that_are_not_finite_are_no_best_and_not_in_the_log(tmp_path, plain):
    scores = {0: 0.3, 2: float("nan"), 4: float("inf"), 6: 0.1}
    run, validator = validating(tmp_path, plain, scores, patience=3)
    list(run)
    assert validator.best.step == 0 and run.step == 6
    found = {line["step"]: line for line in lines(tmp_path) if "look/diversity" in line}
    assert "look/held_out" not in found[2] and "look/held_out" in found[6]


def test_a_score_that_no_look_gives(tmp_path, plain):
    run, validator = validating(tmp_path, plain)
    validator.score = "beauty"
    with pytest.raises(ValueError, match="validation: there is no score 'beauty', only held_out"):
        list(run)


def test_a_checkpoint_from_before_there_were_looks(tmp_path, plain):
    plan = Optimisation(**QUICK, steps=3)
    blind, _ = fit(tmp_path, plain, plan)
    list(blind)
    run, validator = validating(tmp_path, plain, plan=Optimisation(**QUICK, steps=6))
    list(run)
    assert validator.steps == [4, 6] and best_of(tmp_path)[0]["step"] == 4


def test_patience_needs_looks():
    with pytest.raises(
        ValueError, match=r"validation\.patience: nothing is validated; set validation\.every"
    ):
        Training(**{"validation": {"patience": 2}})
    assert Validation(every=2, patience=3, each=4).least == 0
