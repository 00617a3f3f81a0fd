"""The studies' scripts: intervals over training seeds and prompts, commands, and tables from what a judge saw."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from trueline.evaluation.benchmarks import load
from trueline.evaluation.drawing_list import choose, wanted
from trueline.evaluation.metrics.statistics import Terms, paired_difference, ratio
from trueline.evaluation.tables import check_rows
from trueline.files import Busy, Claims

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def study():
    """The modules of ``studies``, which import each other as scripts do."""
    sys.path.insert(0, str(STUDIES))
    names = ("_common", "_intervals", "_tables", "_sweep", "hcma_tables", "goal_tables", "realign_tables")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(STUDIES))
        for name in names:
            sys.modules.pop(name, None)


# Intervals


def terms(rng, prompts=40, shift=0.0):
    """Two pictures of each prompt; what is hard is hard for both."""
    hard = rng.random(prompts).repeat(2)
    right = (rng.random(2 * prompts) + shift > hard).astype(float)
    return Terms.of(right.tolist(), [1.0] * len(right), [f"p{i // 2}" for i in range(2 * prompts)])


def test_one_training_seed_is_the_plain_bootstrap(study):
    intervals, rng = study["_intervals"], np.random.default_rng(0)
    ours, other = terms(rng, shift=0.2), terms(rng)
    a, b = intervals.of_ratios([ours], ()), intervals.of_ratios([other], ())
    assert intervals.estimate(a) == ratio(ours)
    assert intervals.difference(a, b) == paired_difference(ours, other)


def test_pigeonhole_stretches_the_drawn_seeds_to_an_unbiased_spread(study):
    """Without spread between prompts the variance is s^2 / S, of S seeds with their unbiased variance s^2."""
    pigeonhole = study["_intervals"].pigeonhole
    values = np.array([0.2, 0.5, 0.6])
    drawn = np.tile(values[:, None], (1, 200_000))
    picked = np.random.default_rng(0).integers(3, size=(200_000, 3))
    made = pigeonhole(drawn, picked)
    assert made.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert made.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)
    np.testing.assert_allclose(pigeonhole(drawn, np.tile([0, 1, 2], (200_000, 1))), values.mean())


def test_seeds_that_differ_widen_the_interval_and_their_mean_is_the_value(study):
    intervals, rng = study["_intervals"], np.random.default_rng(1)
    alike = [terms(rng, shift=0.1)] * 3
    apart = [terms(rng, shift=shift) for shift in (-0.3, 0.1, 0.5)]
    narrow, wide = (intervals.estimate(intervals.of_ratios(some, (0, 1, 2))) for some in (alike, apart))
    single = ratio(alike[0])
    assert (narrow.value, narrow.low, narrow.high) == pytest.approx((single.value, single.low, single.high))
    assert wide.value == pytest.approx(np.mean([one.value for one in apart]))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_rows_with_the_same_training_seeds_are_compared_seed_by_seed(study):
    """What moves both rows of a training seed cancels; against other seeds it does not."""
    intervals, rng = study["_intervals"], np.random.default_rng(2)
    base = [terms(rng, shift=shift) for shift in (-0.3, 0.1, 0.5)]
    better = [
        Terms(one.keys, one.numerators + 0.2 * (one.keys.index("p0") + 1), one.denominators, one.n)
        for one in base
    ]
    a, b = intervals.of_ratios(better, (0, 1, 2)), intervals.of_ratios(base, (0, 1, 2))
    same = intervals.difference(a, b)
    assert same.low == pytest.approx(same.value) == pytest.approx(same.high)
    others = intervals.difference(a, intervals.of_ratios(base, (3, 4, 5)))
    assert others.value == pytest.approx(same.value) and others.high - others.low > 0.1


def test_other_prompts_are_refused(study):
    intervals, rng = study["_intervals"], np.random.default_rng(3)
    few, many = intervals.of_ratios([terms(rng, 10)], ()), intervals.of_ratios([terms(rng, 20)], ())
    with pytest.raises(ValueError, match="same prompts"):
        intervals.difference(few, many)
    with pytest.raises(ValueError, match="same prompts"):
        intervals.of_ratios([terms(rng, 10), terms(rng, 20)], (0, 1))


def test_figures_of_sets_are_drawn_by_prompt(study):
    """A mean as such a figure has the interval of the ratio, nearly."""
    intervals, rng = study["_intervals"], np.random.default_rng(4)
    values, prompts = rng.random(60), [f"p{i // 2}" for i in range(60)]
    drawn = intervals.of_sets([lambda places: values[list(places)].mean()], (), prompts, draws=2000)
    own, plain = intervals.estimate(drawn), ratio(Terms.of(values.tolist(), [1.0] * 60, prompts))
    assert own.value == pytest.approx(values.mean()) and own.n == 60 and own.clusters == 30
    assert (own.low, own.high) == pytest.approx((plain.low, plain.high), abs=0.01)


# Commands


@pytest.mark.parametrize("name", ["hcma_tables", "goal_tables", "realign_tables"])
def test_dry_run_says_every_command_and_touches_nothing(study, name, tmp_path, capsys):
    out = tmp_path / "out"
    assert study[name].main(["--dry-run", "--out", str(out), "--n", "8", "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "trueline train" in said and "trueline evaluate world" in said and "CPU minutes" in said
    assert "--n 8" in said and "seed=1" in said


def test_a_second_one_in_the_folder_says_who_works_there(study, tmp_path):
    with (
        Claims(tmp_path / "claims").held("shard 1/1"),
        pytest.raises(Busy, match=r"^--out: .* is in use by process"),
    ):
        study["goal_tables"].main(["--out", str(tmp_path), "--only", "tables"])


def test_every_command_is_one_that_the_command_line_takes(study, tmp_path):
    """Settings of every training, rows and flags of every drawing; without the files that they name."""
    from trueline.commands import evaluate, train
    from trueline.commands._methods import split_settings
    from trueline.commands._rows import BASIC, _parts
    from trueline.methods import METHODS, make
    from trueline.training.recipes.recipe import recipe

    hcma, goal, realign = study["hcma_tables"], study["goal_tables"], study["realign_tables"]
    options = hcma.parser().parse_args(["--joint", "train", "--out", str(tmp_path), "--hcma", "beta=.25"])
    a = study["_common"].Study(
        "hcma", options, hcma.rows_of(options, "NET"), {"hcma": ("--hcma.weights", "NET")}
    )
    options = goal.parser().parse_args(["--out", str(tmp_path)])
    b = study["_common"].Study("goal", options, goal.rows_of(options))
    options = realign.parser().parse_args(["--out", str(tmp_path), "--captioner", "C", "--itm", "I"])
    c = study["_common"].Study("realign", options, realign.rows_of(options), judges=["clip=H"])
    jobs = [
        job
        for one in (a, b, c)
        for job in (*one.train([hcma.ALIGN] if one is a else []), *one.draw(), *one.judge())
    ]
    swept = study["_sweep"]
    jobs += swept.sweep(swept.sweep_of(a, "hcma-sweep", hcma.sweep_rows(a.options), 48))
    jobs += swept.sweep(swept.sweep_of(b, "goal", goal.sweep_rows(b.options), 120))
    assert len(jobs) > 40
    for job in jobs:
        command, *rest = job.arguments
        if command == "train":
            given = train.parser().parse_args(rest)
            settings = recipe(given.recipe).settings(**train.gathered(given))
            assert settings.seed in (0, 1, 2) and settings.validation.every == 0
            continue
        rest, given = split_settings(rest)
        parsed = evaluate.parser().parse_args(rest)
        assert parsed.out and job.minutes > 0
        loras = dict(text.partition("=")[::2] for text in parsed.loras)
        worn = set()
        for name, own in (part for text in parsed.methods or [] for part in _parts(text)):
            if name.startswith("lora:"):
                worn.add(name.removeprefix("lora:"))
            elif name not in BASIC:
                assert name in METHODS
                make(name, given.get(name, {}) | own)
        assert worn == set(loras)


def test_the_joint_training_is_for_pictures_of_as_many_steps_as_are_drawn(study, tmp_path):
    """The step of the rule "norm" is as long as one of a run of so many."""
    from trueline.commands import train
    from trueline.training.recipes.hcma import HcmaSettings

    def settings(*arguments: str):
        options = study["hcma_tables"].parser().parse_args(["--joint", "train", *arguments])
        own = study["_common"].Study("hcma", options, study["hcma_tables"].rows_of(options, "NET"))
        jobs = [job for job in own.train() if "joint" in job.arguments]
        given = [train.gathered(train.parser().parse_args(job.arguments[1:])) for job in jobs]
        return options, [HcmaSettings(**one) for one in given]

    for arguments in ((), ("--steps", "37")):
        options, made = settings(*arguments)
        assert [one.objective.sampling_steps for one in made] == [options.steps] * 3
    config = ["hcma", "--config", str(STUDIES.parent / "configs" / "hcma_world.yaml"), "--stage", "joint"]
    own = HcmaSettings(**train.gathered(train.parser().parse_args([*config, "--out", "x"])))
    assert own.objective.sampling_steps == own.validation.steps == settings()[0].steps


def test_gligen_is_drawn_with_every_method_that_needs_boxes_and_no_training(study):
    from trueline.methods import METHODS, method_class

    kinds = {name: method_class(name) for name in METHODS}
    free = {name for name, kind in kinds.items() if kind.needs_regions and "weights" not in kind.model_fields}
    hcma = study["hcma_tables"]
    names = [row.partition("@")[0] for row in hcma.FREE]
    assert sorted(names) == sorted(free) and "realign" in names
    rows = {row.name for row in hcma.rows_of(hcma.parser().parse_args([]), "NET")}
    assert {f"gligen+{row}" for row in hcma.FREE} <= rows and "gligen+realign" in rows
    without = [row.partition("@")[0] for row in hcma.UNGROUNDED]
    assert without == ["attend-and-excite", "boxdiff", "layout-guidance"] and set(hcma.UNGROUNDED) <= rows


@pytest.mark.parametrize("rows", [[], ["--rows", "gligen", "joint, both"]])
def test_a_joint_net_that_was_given_draws_its_rows(study, tmp_path, capsys, rows):
    out = tmp_path / "out"
    assert study["hcma_tables"].main(["--dry-run", "--joint", "DIR", "--out", str(out), *rows]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if "--model DIR" in line]
    assert len(lines) == 1 and f"--out {out}/draw/joint" in lines[0] and "stage joint" not in said
    drawn = lines[0].partition("--methods ")[2].partition(" --")[0].split()
    parts = (
        ["gligen+hcma"]
        if rows
        else ["gligen+hcma@local_weight=0", "gligen+hcma@global_weight=0", "gligen+hcma"]
    )
    assert drawn == parts + ([] if rows else ["gligen"])
    assert f"joint-both={out}/draw/joint/pictures/gligen+hcma" in said, "and they are judged"


def test_the_tables_name_rows_that_are_there(study, tmp_path):
    hcma, goal, realign = study["hcma_tables"], study["goal_tables"], study["realign_tables"]
    options = hcma.parser().parse_args(["--joint", "train"])
    rows = hcma.rows_of(options, "NET")
    coarse = realign.parser().parse_args(["--coarse", "itm"])
    every = (
        (rows, hcma.tables_of(rows)),
        (goal.rows_of(goal.parser().parse_args([])), goal.tables_of()),
        (realign.rows_of(coarse), realign.tables_of(coarse)),
    )
    for some, tables in every:
        names = {row.name for row in some}
        for table in tables:
            assert set(table.rows) <= names and len(set(table.rows)) == len(table.rows)
        used = {name for table in tables for name in table.rows}
        assert names == used


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("hcma_tables", ["--only", "drew"], "--only: there is no step 'drew'"),
        ("hcma_tables", ["--hcma", "beta"], "--hcma: write settings as beta=.25"),
        ("hcma_tables", ["--hcma", "betta=1"], "hcma.betta: hcma has no such setting; it has strength"),
        ("hcma_tables", ["--hcma", "stop=.5,beta=x"], "hcma.beta: "),
        ("hcma_tables", ["--hcma", "weights=net"], "--hcma: give the net as --alignment"),
        ("goal_tables", ["--shard", "1/2", "--only", "train"], "--shard: step train is not done in parts"),
        ("goal_tables", ["--shard", "3/2"], "--shard: write it as 1/4"),
        ("goal_tables", ["--trainings", "nothing"], "--trainings: there is no 'nothing'"),
        ("goal_tables", ["--train-set", "lr"], "--train-set: write KEY=VALUE"),
        ("goal_tables", ["--seeds", "0"], "--seeds: must be 1 or more"),
        ("realign_tables", ["--eyes", "noun-phrases", "oracle", "none"], "--eyes: the oracle judges"),
    ],
)
def test_bad_options_are_one_sentence(study, script, arguments, said, tmp_path):
    with pytest.raises(ValueError) as raised:
        study[script].main(["--dry-run", "--out", str(tmp_path / "out"), *arguments])
    assert str(raised.value).startswith(said)


def test_a_shard_draws_and_judges_and_does_nothing_else(study, tmp_path, capsys):
    assert study["goal_tables"].main(["--dry-run", "--shard", "2/2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "--shard 2/2" in said and "trueline train" not in said and "# tables" not in said
    assert said.count("--judges none --shard 2/2") == said.count("--judges none") == 1
    assert said.count("trueline evaluate") == said.count("--shard 2/2") == 2, "drawn, then judged"


def test_boxes_are_called_alike_in_training_and_in_pictures(study, tmp_path, capsys):
    arguments = ["--dry-run", "--labels", "name", "--only", "train", "draw", "judge", "sweep", "--out"]
    assert study["goal_tables"].main([*arguments, str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trueline")]
    assert len(lines) > 30
    for line in lines:
        wanted = "--set data.labels=name" if "trueline train" in line else "--option labels=name"
        assert line.count(wanted) == 1
    assert sum("--option labels=name split=tune" in line for line in lines) == 1


def test_some_rows_only(study, tmp_path, capsys):
    out = ["--dry-run", "--out", str(tmp_path / "out")]
    assert study["goal_tables"].main([*out, "--rows", "gligen", "GOAL", "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("trueline train") == 1 and "--methods gligen gligen+lora:goal-full-0 --loras" in said
    with pytest.raises(ValueError, match="--rows: there is no 'nobody'; there are plain, gligen,"):
        study["goal_tables"].main([*out, "--rows", "nobody"])
    with pytest.raises(ValueError, match="--rows: step time compares with GOAL"):
        study["goal_tables"].main(["--out", str(tmp_path), "--rows", "plain", "--only", "time"])


def test_goal_is_timed_between_pictures_of_gligen(study):
    clock = iter(range(0, 10_000, 1))
    spent = {"gligen": 2, "slow": 6}
    now = [0.0]

    def painter(name):
        def paint():
            now[0] += spent[name]

        return paint

    painters = {name: painter(name) for name in spent}
    found = study["goal_tables"].in_turns(painters, 3, lambda: now[0] + 0 * next(clock))
    assert found == {"gligen": [1.0] * 3, "slow": [3.0] * 3}


# Tables


def look(folder, method, names, rng, right):
    """What a judge would store about pictures, one batch."""
    seen = {}
    for row, _name in enumerate(names):
        seen[f"{row}/ratio/object_accuracy"] = np.array([float(rng.random() < right), 1.0])
        seen[f"{row}/features/picture"] = rng.normal(size=(1, 4)) + (1 - right)
        seen[f"{row}/found/words"] = np.zeros((0, 3), dtype=str)
    target = folder / "seen" / method / "world"
    target.mkdir(parents=True)
    np.savez(target / "00000.npz", **seen, about=np.array(json.dumps({"names": list(names)})))


def test_rows_of_a_table_from_what_was_seen(study, tmp_path):
    """Values by hand, differences to the first row, two training seeds, diversity, and a distance to the truth."""
    common, tables = study["_common"], study["_tables"]
    options = study["goal_tables"].parser().parse_args(["--out", str(tmp_path), "--seeds", "2"])
    training = common.Training("full", "goal", "goal_world.yaml", lora=True)
    rows = [common.Row("gligen", "gligen"), common.Row("GOAL", "gligen+{lora}", training)]
    own = common.Study("goal", options, rows)
    assert [own.seen_as(row, seed) for row, seed in own.runs()] == [
        "gligen",
        "gligen+lora:goal-full-0",
        "gligen+lora:goal-full-1",
    ]

    examples = load("world").examples
    names = [one.name for one in wanted(examples, choose(examples, 30), (0, 1))]
    (tmp_path / "world").mkdir()
    manifest = {"settings": {"seeds": [0, 1]}, "ids": names}
    (tmp_path / "world" / "run.json").write_text(json.dumps(manifest))
    rng = np.random.default_rng(0)
    rates = {"reference": 1.0, "gligen": 0.2, "gligen+lora:goal-full-0": 0.9, "gligen+lora:goal-full-1": 0.8}
    for method, rate in rates.items():
        look(tmp_path / "world", method, names, rng, rate)
    pictures = tables.Pictures(tmp_path / "world")
    columns = (tables.ORACLE[0], tables.FID, tables.DIVERSITY, tables.CLIP)
    made = tables.table_rows(own, pictures, tables.Table("T", ("gligen", "GOAL"), columns), "cmd")
    check_rows(made)
    found = {(row["method"], row["metric"]): row for row in made}
    assert {metric for _, metric in found} == {"object", "fid", "diversity"}, "nobody measured CLIP"
    goal = found["GOAL", "object"]
    shares = [
        np.mean(
            [pictures.seen(f"gligen+lora:goal-full-{seed}")[n]["ratio/object_accuracy"][0] for n in names]
        )
        for seed in (0, 1)
    ]
    assert goal["per_seed"] == pytest.approx(shares) and goal["value"] == pytest.approx(np.mean(shares))
    assert goal["training_seeds"] == [0, 1] and goal["n"] == 60 and goal["against"] == "gligen"
    assert 0.3 < goal["difference_low"] < goal["difference"] < goal["difference_high"] < 1
    assert found["GOAL", "fid"]["difference_high"] < 0 and found["GOAL", "fid"]["low"] >= 0
    assert 0 < found["gligen", "diversity"]["value"] < 2 and math.isfinite(
        found["gligen", "diversity"]["low"]
    )
    assert not tables.table_rows(own, pictures, tables.Table("T", ("plain", "GOAL"), columns), "cmd")
    assert {row["reads"] for row in made} == {tables.READS_SEEDS}
    assert "for them it is in-sample" in found["GOAL", "fid"]["protocol"]
    options.seeds = 1
    one = tables.table_rows(own, pictures, tables.Table("T", ("gligen", "GOAL"), columns[:1]), "cmd")
    assert {row["reads"] for row in one} == {tables.READS_ONE} and one[1]["training_seeds"] == [0]
    own.rows = [rows[0], common.Row("again", "gligen")]
    none = tables.table_rows(own, pictures, tables.Table("T", ("gligen", "again"), columns[:1]), "cmd")
    assert {row["reads"] for row in none} == {tables.READS}, "nothing was trained"
    options.seeds, own.rows = 2, rows
    more = tables.Table("T", ("gligen", "plain", "GOAL"), columns)
    assert tables.table_rows(own, pictures, more, "cmd") == made, "a row that --rows leaves out"
    tables.write(own, made, ["a note"])
    assert "left out: a note" in (tmp_path / "tables.md").read_text()
    assert json.loads((tmp_path / "rows.json").read_text()) == made


def test_pictures_that_nobody_looked_at_are_said(study, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"seeds": [0]}, "ids": ["color-0000-0"]}))
    pictures = study["_tables"].Pictures(tmp_path)
    with pytest.raises(ValueError, match="nobody looked at 1 of 1 pictures; run step judge"):
        pictures.seen("gligen")
    with pytest.raises(ValueError, match="nothing was drawn here yet"):
        study["_tables"].Pictures(tmp_path / "nowhere")
