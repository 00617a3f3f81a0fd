"""Seeds of more than 32 bits: numbers of their own, where torch's CPU generator would read the low 32 bits."""

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

import trueline
from trueline.layout import MAX_SEED, Layout
from trueline.models.grounding_layers import with_grounding
from trueline.sampling.pipeline import Pipeline
from trueline.seeds import WIDE, noise_generators, seed_torch, started
from trueline.training.parts import ADAPTER, _add_lora
from trueline.training.settings import Training

LOW = 5
WIDER = [WIDE, WIDE + LOW, 2 * WIDE + LOW, 2**40 + LOW, MAX_SEED]


def of_torch(seed):
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        return torch.randn(32)


def grounding_layers(seed, plain):
    made = with_grounding(plain.unet, seed)
    return next(weight.flatten()[:32] for name, weight in made.named_parameters() if "fuser.linear" in name)


def lora(seed, tokenizer):
    net = tiny_backbone(tokenizer, gated=False).unet
    attention = [name for name in net.state_dict() if name.endswith("attn1.to_q.weight")]
    _add_lora(net, dict.fromkeys(attention), 2, seed)
    return next(
        weight.flatten()[:32] for name, weight in net.named_parameters() if f"lora_A.{ADAPTER}" in name
    )


def test_whoever_takes_a_seed_takes_all_of_it(plain, tokenizer):
    """Everything that starts a generator of torch at somebody's seed: pictures, nets' weights, the global one."""
    draws = {
        "a picture": lambda seed: torch.randn(32, generator=noise_generators([seed])[0]),
        "a later picture": lambda seed: torch.randn(32, generator=noise_generators([(seed, 3)])[0]),
        "the global generator": of_torch,
        "grounding layers": lambda seed: grounding_layers(seed, plain),
        "a LoRA": lambda seed: lora(seed, tokenizer),
    }
    for what, draw in draws.items():
        found = {seed: tuple(draw(seed).tolist()) for seed in (0, LOW, *WIDER)}
        assert len(set(found.values())) == len(found), what


@pytest.mark.parametrize("seed", [0, LOW, WIDE - 1])
def test_seeds_of_32_bits_are_those_of_diffusers(seed):
    """Also as another seed's later picture: 32 bits of a hash, as ever."""
    usual = torch.Generator().manual_seed(seed)
    assert torch.equal(started(seed).get_state(), usual.get_state())
    assert torch.equal(of_torch(seed), torch.randn(32, generator=usual))
    assert noise_generators([(7, 3)])[0].initial_seed() == int(hashlib.sha256(b"7/3").hexdigest()[8:16], 16)


def test_a_wide_seed_is_the_whole_state_of_a_mersenne_twister():
    """NumPy's, with the words that torch was given, goes on as torch does; so the words stand where they should."""
    generator = started(WIDE + LOW)
    assert generator.initial_seed() == WIDE + LOW
    words = generator.get_state()[24 : 24 + 8 * 624].view(torch.int64).numpy()
    assert words.max() < WIDE and len(set(words.tolist())) == 624
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words.astype(np.uint32), "pos": 624}}
    most = 1_000_003  # from 2^28 on torch takes two words for one number
    drawn = torch.empty(2000, dtype=torch.int32).random_(0, most, generator=generator)
    assert drawn.tolist() == [int(raw) % most for raw in twister.random_raw(2000)]
    first = torch.randn(3, generator=started(WIDE))
    assert first.tolist() == pytest.approx([0.2833, -0.2327, 0.2098], abs=1e-4), "the rule is for good"


def test_old_records_of_wide_seeds_are_made_again(gated):
    """Their noise was that of the low 32 bits; the record that comes with the picture is the old one."""
    pipe, options = Pipeline(gated), {"steps": 2, "progress": False}
    layout = Layout("a red apple")
    old = pipe(layout, seeds=[LOW], **options)
    wide = old.records[0] | {"seed": WIDE + LOW}
    wide["layout"] = wide["layout"] | {"seed": WIDE + LOW}
    again = pipe.remake(json.loads(json.dumps(wide)))
    assert again.image.tobytes() == old.images[0].tobytes() and again.record == wide

    new = pipe(layout, seeds=[WIDE + LOW], **options)
    assert new.images[0].tobytes() != old.images[0].tobytes()
    assert new.records[0]["seed_rule"] == 2 and "seed_rule" not in old.records[0]
    made = pipe.remake(json.loads(json.dumps(new.records[0])))
    assert made.image.tobytes() == new.images[0].tobytes() and made.record == new.records[0]


def test_a_seed_that_torch_cannot_take_is_refused():
    with pytest.raises(ValueError, match="seed: "):
        Training(seed=2**64)


def test_nobody_else_gives_torch_a_seed():
    """But for numbers that stand in the code."""
    root = Path(trueline.__file__).parent
    own = {"world/fitting.py", "training/rewards/reward.py"}  # a few whole numbers, made there
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        given = [call.args[0] for call in calls if getattr(call.func, "attr", "") == "manual_seed"]
        if name != "seeds.py" and name not in own:
            assert all(isinstance(seed, ast.Constant) for seed in given), name
