"""The measuring scripts, on small nets: what they measure is what they say. The numbers mean nothing here."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from trueline.evaluation.results_page import results_page
from trueline.evaluation.tables import READS
from trueline.methods import METHODS

SCRIPTS = Path(__file__).parents[1] / "benchmarks_perf"
CASES = [name for name in METHODS if name != "hcma"]
MAP_GRADIENT = [name for name in CASES if "guide" in METHODS[name].hooks]


pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="the folder benchmarks_perf is not here")


@pytest.fixture(scope="module")
def scripts():
    """The modules of ``benchmarks_perf``, which import each other as scripts do."""
    sys.path.insert(0, str(SCRIPTS))
    names = ("_measured", "guided_step", "hcma_cost")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def script(scripts):
    return scripts["guided_step"]


@pytest.fixture(scope="module")
def small(script):
    return script.random_backbone(script.SMALL, gated=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' pipeline is deprecated
def test_every_method_has_a_finite_ratio_on_both_nets_and_the_page_shows_it(script, tmp_path, capsys):
    out = tmp_path / "speed.json"
    assert script.main(["--small", "--repeats", "1", "--steps", "2", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert all(math.isfinite(row["value"]) and row["value"] >= 0 for row in rows)
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] >= 1 for row in rows)
    assert all("guided_step.py --small --repeats 1" in row["command"] and row["commit"] for row in rows)
    costs = {(r["model"], r["method"]): r for r in rows if r["metric"] == "step_cost"}
    assert len({model for model, _ in costs}) == 2
    for name in (*CASES, script.RECOMPUTED):
        for model in {model for model, _ in costs}:
            found = costs[model, name]
            assert found["value"] > 0
            assert ("goal" in found) == (name in MAP_GRADIENT)
    kept = {(r["model"], r["method"]): r["value"] for r in rows if r["metric"] == "kept_memory_gib"}
    assert {method for _, method in kept} == {*MAP_GRADIENT, script.RECOMPUTED}
    for model in {model for model, _ in costs}:
        assert kept[model, script.RECOMPUTED] < 0.5 * kept[model, "attend-and-excite"]
    whole = {(r["method"], r["metric"]): r["value"] for r in rows if r["benchmark"] == "Attend-and-Excite"}
    gain = whole["diffusers", "run_seconds"] / whole["trueline", "run_seconds"]
    assert whole["diffusers", "run_cost"] == pytest.approx(gain)
    page = results_page([out])
    assert "attend-and-excite, `step_cost` at most 1.9: " in page
    assert "\n## speed\n" in page and READS not in page
    assert capsys.readouterr().out.strip() in page


@pytest.mark.parametrize("name", CASES)
def test_each_step_is_guided_by_one_look(script, small, name):
    """Passes begun in each of two steps: the prediction, and one look or the method's own predictions."""
    begun = []
    handle = small.unet.conv_in.register_forward_hook(lambda _module, args, _out: begun.append(len(args[0])))
    passes = []
    try:
        for _ in script.steps_of(small, name, 2):
            passes.append(list(begun))
            begun.clear()
    finally:
        handle.remove()
    assert passes[0] == passes[1], "the last step costs what the first costs"
    if name in MAP_GRADIENT:
        assert passes[0] == [1, 2], "one row for the look, two for classifier-free guidance"
    else:
        assert 2 in passes[0]


def test_the_tokenizer_knows_the_words_and_the_net_is_that_of_stable_diffusion(script, small):
    ids = small.tokenizer(script.LAYOUT.prompt).input_ids
    assert len(ids) == 2 + len(script.LAYOUT.prompt.split())
    assert small.text_length == script.TOKENS
    config = small.unet.config
    for key, value in script.SMALL.items():
        assert tuple(config[key]) == value if isinstance(value, tuple) else config[key] == value
    assert script.SD_1_4["block_out_channels"] == (320, 640, 1280, 1280) and config.sample_size == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "3"], "--steps: must be an even number"),
        (["--repeats", "0"], "--repeats: must be 1 or more"),
        (["--only", "boxdif"], "--only: invalid choice: 'boxdif'"),
    ],
)
def test_bad_options_are_one_sentence(script, arguments, said):
    with pytest.raises(ValueError, match=r"see guided_step\.py --help") as raised:
        script.main(["--small", *arguments])
    assert str(raised.value).startswith(said)


def test_hcma_is_compared_with_a_plain_picture_without_its_net(scripts):
    """Costs by hand: the net weighs a quarter of what a plain picture needs, and lies in memory in both kinds."""
    script = scripts["hcma_cost"]
    costs = {
        script.PLAIN: script.Cost(seconds=[2.0, 4.0, 3.0], memory=[5.0, 5.0, 5.0]),
        script.ALIGNED: script.Cost(seconds=[2.1, 5.0, 3.3], memory=[5.04, 5.12, 5.2]),
    }
    made = script.origin("hcma_cost.py", []) | {"clock": "clock"}
    rows = {(row["method"], row["metric"]): row for row in script.rows_of(costs, 1.0, "model", made)}
    space = rows[script.ALIGNED, "peak_memory"]
    assert (space["low"], space["value"], space["high"]) == pytest.approx((1.26, 1.28, 1.3))
    assert space["goal"] == "at most 1.05: **does not hold**", "it would, were the net in both"
    assert rows[script.ALIGNED, "peak_gib"]["value"] == 5.12 and rows[script.PLAIN, "peak_gib"]["value"] == 5
    assert rows[script.PLAIN, "peak_memory"]["value"] == rows[script.PLAIN, "picture_cost"]["value"] == 1
    time = rows[script.ALIGNED, "picture_cost"]
    assert (time["low"], time["value"], time["high"]) == pytest.approx((1.05, 1.1, 1.25))
    assert time["n"] == space["n"] == 3

    costs[script.ALIGNED].memory[1] = math.nan  # a system that is mute
    found = {
        row["metric"] for row in script.rows_of(costs, 1.0, "model", made) if row["method"] != script.PLAIN
    }
    assert found == {"picture_cost", "picture_seconds"}


def test_hcma_cost_on_small_nets(scripts, tmp_path, capsys):
    """Its numbers mean nothing here; what it compares does."""
    script, out = scripts["hcma_cost"], tmp_path / "cost.json"
    assert script.main(["--small", "--pictures", "1", "--steps", "2", "--out", str(out)]) == 0
    rows = {(row["method"], row["metric"]): row for row in json.loads(out.read_text())}
    ours, plain = rows["gligen+hcma", "picture_seconds"], rows["gligen", "picture_seconds"]
    cost = rows["gligen+hcma", "picture_cost"]
    assert ours["n"] == plain["n"] == 1 and plain["value"] > 0
    assert cost["value"] == pytest.approx(ours["value"] / plain["value"])
    assert rows["gligen", "picture_cost"]["value"] == 1 and "goal" not in rows["gligen", "picture_cost"]
    assert cost["goal"] == f"at most 1.1: {'holds' if cost['value'] <= 1.1 else '**does not hold**'}"
    if ("gligen", "peak_gib") in rows:  # Linux
        held = rows["gligen+hcma", "peak_memory"]["value"] * rows["gligen", "peak_gib"]["value"]
        assert held == pytest.approx(rows["gligen+hcma", "peak_gib"]["value"], rel=0.2)
    assert "gligen+hcma" in results_page([out]) and "picture_cost" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--steps: must be 1 or more"):
        script.main(["--steps", "0"])
