"""One table, every method, the same claims. A new line of METHODS is tested here without another word.

What is particular to a method (its formulas, its settings) is in the file of its name.
"""

import json
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny import sampled, tiny_backbone

from trueline.cli import main
from trueline.layout import Layout, Region
from trueline.methods import METHODS, make, method_class
from trueline.models.attention import sites
from trueline.models.grounding import fusers
from trueline.models.text import locate
from trueline.sampling import guidance
from trueline.sampling.guidance import map_grid
from trueline.sampling.loop import check_layouts
from trueline.sampling.masks import region_mask
from trueline.sampling.method import Method
from trueline.sampling.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # notes are read where they are counted: in the steps

#: Settings for tiny nets and few steps; a method that is not here runs with its own.
SMALL = {
    "attend-and-excite": {"cells": 8, "scale": 2.0, "refinements": 1},
    "attention-refocusing": {"cells": 8, "strength": 0.5, "stages": ((0, 1, 2),)},
    "boxdiff": {"cells": 8, "scale": 2.0, "refinements": 1},
    "composable": {"strength": 0.5},  # at 1 it predicts the phrases and not the prompt, where others act
    "dense-diffusion": {"duration": 0.5, "phrases_alone": False},  # which would forestall Structured
    "layout-guidance": {"scale": 4.0, "until": 0.5, "iterations": 2},
    "paint-with-words": {"strength": 2.0},  # tiny logits
    "realign": {"duration": 0.5, "power": 1},  # two steps begin where the fifth power has faded
    "token-weights": {"weights": {"apple": 3.0, "car": 2.0, "clock": 3.0, "cat": 3.0}},
}
HOOKS = ("text", "values", "guide", "edit", "combine")
GUIDES = [name for name, entry in METHODS.items() if "guide" in entry.hooks]
#: These give phrases to the net by themselves, or do not look at regions: the prompt need not hold their phrases.
WITHOUT_PROMPT = (
    *("composable", "hcma", "multidiffusion", "perturbed-attention", "structured", "token-weights"),
)
#: Guided by a loss that does not look at attention.
WITHOUT_MAPS = ("hcma",)

APPLE, CAR = Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))
TWO = Layout("a red apple and a blue car", [APPLE, CAR], seed=1)
ONE = Layout("the green chair to the left of a clock", [Region("clock", (0.5, 0.2, 1.0, 0.8))], seed=2)
CATS = Layout(
    "a cat and a cat and a car",
    [
        Region("cat", (0.0, 0.5, 0.4, 1.0)),
        Region("cat", (0.6, 0.5, 1.0, 1.0)),
        Region("car", (0.3, 0, 0.7, 0.5)),
    ],
    seed=3,
)
BARE = Layout("a green chair and a clock", seed=4)
MIXED = (TWO, ONE, CATS, BARE)


def apple_with(**parts):
    return TWO.model_copy(update={"regions": (Region(APPLE.phrase, APPLE.box, **parts), CAR)})


def filled(cells):
    """The upper left of a 16 x 16 mask; the apple's box has 8 of its cells in a row."""
    mask = np.zeros((16, 16), bool)
    mask[:cells, :cells] = True
    return mask


MASKED, AS_BOX, NEGATED = apple_with(mask=filled(6)), apple_with(mask=filled(8)), apple_with(negative="a cat")
LACKING = Layout("a cat and a car", [Region("cat", (0, 0, 0.5, 1)), Region("chair", (0.5, 0, 1, 1))], seed=6)
SPECK = Layout("a cat and a car", [Region("cat", (0.49, 0.52, 0.52, 0.55))], seed=6)  # a twentieth of a cell
ODD = (TWO, MASKED, AS_BOX, NEGATED, LACKING, SPECK, BARE)


@pytest.fixture(scope="module", autouse=True)
def _an_alignment_net(gated, tmp_path_factory):
    """HCMA's net for the tiny backbones, as it is before its training."""
    if "hcma" in METHODS:
        from trueline.models.alignment import AlignmentNet

        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("hcma") / "net"
        AlignmentNet.for_backbone(gated, patch=2, width=16, depth=1, heads=2).save_pretrained(folder)
        SMALL["hcma"] = {"weights": str(folder)}


@pytest.fixture(scope="module")
def nets(plain, gated, tokenizer):
    half = tiny_backbone(tokenizer, gated=True).to(dtype=torch.bfloat16)
    return {"plain": plain, "gated": gated, "half": half}


def run(backbone, layouts, *methods, steps=2, **options):
    """Two steps, of which the first is grounded, and guided by methods that guide half of the steps."""
    options = {"guidance_scale": 4.0, "grounding_schedule": (0.5, 0.5, 0)} | options
    return sampled(backbone, layouts, methods, steps, **options)


@pytest.fixture(scope="module")
def draw(nets):
    """The last step of a run; what was run before is not run again."""
    return cache(
        lambda kind, layouts, *methods, **options: [*run(nets[kind], layouts, *methods, **options)][-1]
    )


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def method(name):
    return small(name)


def small(name, **settings):
    return make(name, SMALL.get(name, {}) | settings)


def gaps(step, other):
    """How far each picture is from the other's."""
    return (step.z - other.z).flatten(1).abs().amax(1)


def notes_of(step, row=0):
    return {sentence: times for (where, sentence), times in step.notes.items() if where == row}


# The table


def test_a_line_of_the_table_says_what_the_method_is(name):
    kind, entry = method_class(name), METHODS[name]
    assert issubclass(kind, Method) and entry.paper and entry.does
    assert "strength" in kind.model_fields and kind() == make(name, {})
    assert entry.hooks == ", ".join(hook for hook in HOOKS if hook in vars(kind))
    assert entry.needs == ("boxes" if kind.needs_regions else "words")
    for part in ("mask", "negative"):
        assert part in kind.__doc__.lower(), f"it says what becomes of a region's {part}"


# 1 Strength


def test_strength_zero_is_plain_sampling_bit_for_bit(name, method, draw):
    plain = draw("gated", MIXED)
    assert torch.equal(draw("gated", MIXED, small(name, strength=0)).z, plain.z)
    assert (gaps(draw("gated", MIXED, method), plain)[:3] > 1e-4).all(), "and more is not"


def test_a_picture_that_it_has_nothing_to_do_for_is_plain_and_says_so(method, draw, nets):
    drawn, reason = draw("gated", MIXED, method), method.idle(BARE, nets["gated"])
    said = [sentence for sentence in notes_of(drawn, 3) if "leaves it plain" in sentence]
    assert said == ([f"{reason}; {type(method).__name__} leaves it plain"] if reason else [])
    assert (gaps(drawn, draw("gated", MIXED))[3] < 1e-5) == bool(reason)


# 2 Its effect


@pytest.mark.parametrize("name", GUIDES)
def test_its_own_loss_falls(name, method, nets, monkeypatch):
    """What the last guided step sees, against the same run without the moves before it."""
    seen, real = [], guidance.LossAndGradient.__init__
    monkeypatch.setattr(
        guidance.LossAndGradient,
        "__init__",
        lambda self, loss, *more: seen.append(loss) or real(self, loss, *more),
    )
    last = {}
    for each in (method, small(name, strength=1e-9)):
        [*run(nets["gated"], [TWO, ONE], each, steps=4)]
        last[each] = seen[-1]
    moved, still = last.values()
    assert (moved < still).all()


@pytest.mark.parametrize("name", [name for name in METHODS if "edit" in METHODS[name].hooks])
def test_its_edits_lead_phrases_into_their_regions(method, nets):
    """Attention mass of a phrase's words in its own region, at the first step."""
    options = {"steps": 4, "record": lambda site: site.kind == "cross"}
    edited, plain = (next(run(nets["gated"], [TWO], *each, **options)).maps for each in ([method], []))
    for site, probs in edited.items():
        for region, found in zip(TWO.regions, locate(nets["gated"], TWO), strict=True):
            inside = region_mask(region, *map_grid(site, (8, 8))).flatten() > 0
            mine, theirs = (
                maps[0][:, inside][..., list(found.tokens)].sum() for maps in (probs, plain[site])
            )
            assert mine > theirs


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].hooks in ("combine", "values")])
def test_it_changes_the_prediction_and_not_where_the_net_looks_first(method, nets):
    first = next(site for site in sites(nets["gated"].unet) if site.kind == "cross")
    with_it, without = (
        next(run(nets["gated"], [TWO], *each, record=lambda site: site.kind == "cross"))
        for each in ([method], [])
    )
    assert torch.equal(with_it.maps[first], without.maps[first])
    assert gaps(with_it, without) > 1e-4


# 3 The nets


@pytest.fixture(scope="module")
def in_training(tokenizer):
    """Not as a fresh backbone is: in training mode, a layer open to gradients, the fusers off."""
    backbone = tiny_backbone(tokenizer, gated=True)
    backbone.unet.train()
    backbone.unet.conv_in.requires_grad_(True)
    for fuser in fusers(backbone.unet):
        fuser.enabled = False
    return backbone


def state(backbone):
    """All that a method may change for a while."""
    nets = {"unet": backbone.unet, "vae": backbone.vae, "text": backbone.text_encoder}
    modules = {f"{net}.{key}": module for net in nets for key, module in nets[net].named_modules()}
    weights = {f"{net}.{key}": weight for net in nets for key, weight in nets[net].named_parameters()}
    return {
        "processors": {key: id(processor) for key, processor in backbone.unet.attn_processors.items()},
        "modules": {key: (id(module), module.training) for key, module in modules.items()},
        "hooks": {
            key: (*module._forward_hooks, *module._forward_pre_hooks) for key, module in modules.items()
        },
        "fusers": [fuser.enabled for fuser in fusers(backbone.unet)],
        "weights": {key: (id(weight), weight.data_ptr(), weight._version) for key, weight in weights.items()},
        "open": {key: (weight.requires_grad, weight.grad is None) for key, weight in weights.items()},
        "gradients": torch.is_grad_enabled(),
    }


class Breaks(Method):
    """Fails within the second step's pass of the net, where taps and the fusers' scale are open."""

    def taps(self, site):
        return site.kind == "cross" and site.place == "up"

    def edit(self, site, logits, ctx):
        if ctx.index == 1:
            raise KeyError("broken")
        return logits


def test_the_nets_are_as_before(method, in_training):
    before, schedule = state(in_training), (1, 0, 0)
    [*run(in_training, [TWO], method, grounding_schedule=schedule)]
    assert state(in_training) == before, "after a run"
    with pytest.raises(KeyError, match="broken"):
        [*run(in_training, [TWO], method, Breaks(), grounding_schedule=schedule)]
    assert state(in_training) == before, "after an error"
    walked = run(in_training, [TWO], method, grounding_schedule=schedule)
    next(walked)
    assert state(in_training) == before, "between two steps"
    del walked
    assert state(in_training) == before, "after its consumer left"


# 4 Batches


def test_a_picture_does_not_depend_on_its_batch_mates(method, draw):
    together = draw("gated", MIXED, method)
    for row, layout in enumerate(MIXED):
        alone = draw("gated", (layout,), method, checked=True)
        torch.testing.assert_close(alone.z[0], together.z[row], rtol=0, atol=1e-5)
        assert notes_of(alone) == notes_of(together, row)


# 5 Backbones


@pytest.mark.parametrize("kind", ["plain", "half"])
def test_it_runs_on_a_plain_backbone_and_in_bfloat16(kind, method, draw):
    layouts = ODD if kind == "plain" else (TWO, BARE)
    drawn = draw(kind, layouts, method)
    assert drawn.z.isfinite().all() and drawn.z.dtype == torch.float32
    assert gaps(drawn, draw(kind, layouts))[0] > 1e-4


# 6 Several methods

#: One of each hook, the first of the table.
KINDS = [
    next(name for name, entry in METHODS.items() if hook in entry.hooks)
    for hook in ("guide", "edit", "combine", "values")
]
PAIRS = {*combinations(KINDS, 2), *((name, "structured") for name in METHODS if name != "structured")}


@pytest.mark.parametrize(("one", "other"), sorted(PAIRS))
def test_two_methods_compose(one, other, draw):
    methods = small(one), small(other)
    both = draw("gated", MIXED, *methods)
    assert both.z.isfinite().all()
    for method in methods:
        assert (gaps(both, draw("gated", MIXED, method))[:3] > 1e-5).all(), "the other one acts, too"


def test_a_picture_that_is_lost_does_not_reach_the_others(method, nets):
    """Losses and gradients of a batch are summed: NaN of one row must not be in the sum of the others."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    options = {"steps": 2, "progress": False, "output_type": "latent", "methods": [method]}
    pipe, layouts = Pipeline(nets["gated"]), [TWO, TWO, TWO]
    whole = pipe(layouts, latents=noise, **options).images
    noise = noise.clone()
    noise[1, 0, 0, 0] = torch.nan
    found = pipe(layouts, latents=noise, **options)
    assert list(found.failed) == [1]
    torch.testing.assert_close(torch.stack(found.images[::2]), whole[::2], rtol=0, atol=1e-4)


# 7 What it refuses


def test_no_boxes_at_all_is_refused_at_the_start(name, method, nets):
    boxless = [BARE, Layout("a cat", seed=5)]
    if METHODS[name].needs == "words":
        assert [*run(nets["gated"], boxless, method)][-1].z.isfinite().all()
        return
    sentence = f"regions: {type(method).__name__} needs at least one region with its box; give a layout one"
    with pytest.raises(ValueError, match=sentence):
        Pipeline(nets["gated"]).stream(boxless, methods=[method])  # before a picture is asked for
    with pytest.raises(ValueError, match=sentence):
        next(run(nets["gated"], boxless, method))


@pytest.fixture(scope="module")
def bare(gated):
    """Its picture without a method."""
    return np.asarray(Pipeline(gated)(BARE, **ONE_BY_ONE).images[0], float)


ONE_BY_ONE = {"steps": 2, "progress": False, "batch_size": 1}


def test_a_picture_without_boxes_in_a_list_with_some(method, nets, bare):
    """Whatever batch it falls into: here it is alone in its own, and the first to be made."""
    pipe = Pipeline(nets["gated"])
    made = pipe([BARE, TWO], methods=[method], **ONE_BY_ONE)
    reason = method.idle(BARE, nets["gated"])
    said = [note for note in made.records[0]["notes"] if "leaves it plain" in note]
    assert len(said) == bool(reason)
    near = abs(np.asarray(made.images[0], float) - bare).max() <= 1
    assert near == bool(reason)
    again = pipe.remake(json.loads(json.dumps(made.records[0])), [method])
    assert again.image.tobytes() == made.images[0].tobytes() and again.record == made.records[0]


def test_a_phrase_that_the_prompt_lacks_is_said_once_and_counted(name, method, draw):
    drawn = draw("plain", ODD, method)
    said = notes_of(drawn, ODD.index(LACKING))
    missing = [times for note, times in said.items() if "the prompt does not hold the phrase 'chair'" in note]
    assert missing == ([] if name in WITHOUT_PROMPT else [1])
    assert not any("phrase '" in note for row in (0, 6) for note in notes_of(drawn, row))


def test_a_phrase_that_the_prompt_lacks_is_an_error_on_request(method, nets):
    sentence = (
        r"regions: the prompt does not hold the phrase 'chair' \('a cat and a car'\); change one of them"
    )
    with pytest.raises(ValueError, match=sentence):
        next(run(nets["gated"], [TWO, LACKING], method, strict=True))
    with pytest.raises(ValueError, match=sentence):
        Pipeline(nets["gated"]).stream([TWO, LACKING], methods=[method], strict=True)
    check_layouts(nets["gated"], MIXED, [method], strict=True)
    cut = Layout("a cat and " * 7 + "a red apple", [APPLE])  # 21 words before it, and room for 22
    with pytest.raises(ValueError, match="'a red apple' is cut in its middle at the prompt's 24 tokens"):
        check_layouts(nets["gated"], [cut], [method], strict=True)


def test_strict_on_the_command_line(gated_folder, tmp_path, capsys):
    command = ["generate", "a cat", "--box", "a chair@0,0,.5,1", "--model", str(gated_folder), "--steps", "1"]
    command += ["--quiet", "--out", str(tmp_path)]
    assert main([*command, "--strict"]) == 2
    assert "trueline: regions: the prompt does not hold the phrase 'a chair'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))
    assert main(command) == 0
    assert main(["generate", "--regenerate", str(tmp_path / "0000-0.json"), "--strict"]) == 2
    assert "leave --strict out" in capsys.readouterr().err


# 8 Bad input


def test_more_phrases_than_boxes_cannot_be_written():
    """A region is a phrase and its box. On the command line: "a cat" among ``BOXES`` in test_bad_input."""
    with pytest.raises(ValueError, match="box: is missing; give a value"):
        Region("a cat")
    whole, half = {"phrase": "a cat", "box": [0, 0, 1, 1]}, {"phrase": "a car"}
    with pytest.raises(ValueError, match=r"regions\[1\].box: is missing"):
        Layout.from_record({"prompt": "a cat and a car", "regions": [whole, half]})


def test_a_box_below_one_cell_is_not_lost(method, draw):
    drawn, row = draw("plain", ODD, method), ODD.index(SPECK)
    assert drawn.z[row].isfinite().all()
    assert gaps(drawn, draw("plain", ODD))[row] > 1e-5


class Poison(Method):
    """NaN in the maps of the second picture, where a loss looks at them."""

    def taps(self, site):
        return site.kind in ("cross", "self")

    def edit(self, site, logits, ctx):
        poison = torch.zeros(len(logits), 1, 1, 1)
        poison[1] = torch.nan
        return logits + poison if torch.is_grad_enabled() else logits


@pytest.mark.parametrize("name", [name for name in GUIDES if name not in WITHOUT_MAPS])
def test_a_loss_that_is_not_finite_is_left_out_for_its_picture_only(method, draw):
    poisoned, others = draw("gated", MIXED, method, Poison()), [0, 2, 3]
    expected = draw("gated", MIXED, method)
    torch.testing.assert_close(poisoned.z[others], expected.z[others], rtol=0, atol=1e-5)
    torch.testing.assert_close(poisoned.z[1], draw("gated", MIXED).z[1], rtol=0, atol=1e-5)
    assert all(notes_of(poisoned, row) == notes_of(expected, row) for row in others)
    ((sentence, times),) = notes_of(poisoned, 1).items()
    assert (
        sentence.endswith(": a step was left out, for its loss or its gradient was not finite") and times >= 1
    )


def test_a_scheduler_that_cannot_take_moved_latents(name, method, draw):
    if name in GUIDES:
        with pytest.raises(ValueError, match=r"scheduler: pndm .* use ddim"):
            draw("plain", (TWO,), method, scheduler="pndm")
        for scheduler in ("lms", "dpmsolver++"):
            assert draw("plain", (TWO,), method, scheduler=scheduler).z.isfinite().all()
    else:
        assert draw("plain", (TWO,), method, scheduler="pndm").z.isfinite().all()


# 9 Masks and negative phrases of regions


@pytest.mark.parametrize(("part", "layout"), [("mask", MASKED), ("negative", NEGATED)])
def test_a_part_of_a_region_is_used_or_the_record_says_that_it_is_not(part, layout, method, draw):
    drawn, row = draw("plain", ODD, method), ODD.index(layout)
    words = {"mask": "masks", "negative": "negative phrases"}[part]
    sentence = f"{type(method).__name__} does not use the {words} of the regions"
    assert notes_of(drawn, row).get(sentence) == (None if part in method.reads else 1)
    assert sentence not in notes_of(drawn, 0)
    change = (drawn.z[row] - drawn.z[0]).abs().max()
    assert change > 1e-4 if part in method.reads else change < 1e-5


def test_a_mask_that_is_the_box_changes_nothing(method, draw):
    drawn = draw("plain", ODD, method)
    torch.testing.assert_close(drawn.z[ODD.index(AS_BOX)], drawn.z[0], rtol=0, atol=1e-5)


def test_without_a_method_the_record_says_so_too(draw, plain):
    both = apple_with(mask=filled(4), negative="a cat")
    said = {"no method uses the masks of the regions", "no method uses the negative phrases of the regions"}
    assert set(notes_of(draw("gated", (both,)))) == said
    record = Pipeline(plain)(both, steps=1, progress=False).records[0]
    assert (
        said < set(record["notes"])
        and len(record["notes"]) == 3
        and "ignores the boxes" in record["notes"][0]
    )
    record = Pipeline(plain)(TWO, steps=1, progress=False, methods=[small("boxdiff")]).records[0]
    assert record["notes"] == [], "a method uses its boxes"


def test_labels_are_for_grounding_layers(draw):
    named = TWO.model_copy(update={"regions": (APPLE.model_copy(update={"label": "a fruit"}), CAR)})
    boxdiff, said = small("boxdiff"), "this backbone has no grounding layers, which alone read the labels of"
    assert any(note.startswith(said) for note in notes_of(draw("plain", (named,), boxdiff)))
    told, plain = draw("gated", (named,), boxdiff), draw("gated", (TWO,), boxdiff)
    assert not notes_of(told) and (told.z - plain.z).abs().max() > 1e-4


def test_its_maps_can_be_looked_at_without_a_trace(method, nets):
    options = {"methods": [method], "steps": 2, "progress": False}
    seen, usual = (Pipeline(nets["gated"])(TWO, maps=maps, **options) for maps in (True, False))
    assert seen.images[0].tobytes() == usual.images[0].tobytes() and seen.records == usual.records
    assert seen.maps[0].phrases == (APPLE.phrase, CAR.phrase) and seen.maps[0].shares.max() > 0
