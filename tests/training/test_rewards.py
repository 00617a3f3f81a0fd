"""Rewards: the caption reward's gradient against enumeration, real BLIP and BLIP-2 classes, several together."""

import copy
import itertools
import math
import sys
import types

import pytest
import torch
from tiny_blip import PROCESSOR, SIDE, bert_tokenizer, blip, blip2_captioner, blip2_text
from tiny_clip import tiny_clip
from torch import nn
from transformers import (
    Blip2ForImageTextRetrieval,
    Blip2TextModelWithProjection,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
)

from trueline.perception.blip2 import Blip, Blip2
from trueline.perception.caption_nets import (
    Autoregressive,
    Blip2Captioner,
    Blip2TextEncoder,
    BlipCaptioner,
    load_blip2_text,
    load_captioner,
)
from trueline.training.early_stop import Best, diversity, drift
from trueline.training.rewards import REWARDS
from trueline.training.rewards.caption import (
    CaptionReward,
    Cosine,
    PromptLikelihood,
    estimated,
    leave_one_out,
)
from trueline.training.rewards.clip import ClipReward
from trueline.training.rewards.match import MatchReward
from trueline.training.rewards.models import model_parts, reward_kind
from trueline.training.rewards.reward import PluginReward, RewardError, RewardKind, probe
from trueline.training.rewards.weighted import LEAST, Rewards, Running

PROMPTS = ["a red apple", "a blue car and the cat"]


def drawn(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def makers(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + place) for place in range(count)]


# A captioner small enough to enumerate


class ToyWords:
    """Four word pieces, of which 0 is the end."""

    names = ("<end>", "red", "apple", "car")

    def __len__(self) -> int:
        return len(self.names)

    def get_vocab(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def __call__(self, text, **_):
        return types.SimpleNamespace(input_ids=[self.names.index(word) for word in text.split()])

    def batch_decode(self, ids, **_):
        return [" ".join(self.names[i] for i in row if i) for row in ids.tolist()]


class ToyCaptioner(Autoregressive):
    """Each word depends, not linearly, on the picture and on all words before."""

    name, end = "toy", 0

    def __init__(self, longest: int = 3):
        super().__init__(ToyWords(), 4, longest)
        torch.manual_seed(1)
        self.eye = nn.Linear(12, 6, dtype=torch.float64)
        self.word = nn.Embedding(4, 6, dtype=torch.float64)
        self.out = nn.Linear(6, 4, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(std=0.8)
            self.eye.weight.normal_(std=1.5)
        self.requires_grad_(False)

    def see(self, images):
        return self.eye(images.flatten(1))[:, None]

    def run(self, seen, ids, past=None, cached=False):
        before = ids if past is None else torch.cat([past, ids], 1)
        history = self.word(before).cumsum(1)
        states = torch.cat([torch.zeros_like(seen), history], 1) + seen
        logits = self.out(states.tanh())
        return (logits if past is None else logits[:, -1:]), before


class ToyEncoder(nn.Module):
    """Word order matters, and weights over words are read as words are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Parameter(torch.randn(4, 5, dtype=torch.float64), requires_grad=False)
        self.mix = nn.Parameter(torch.randn(4, 5, 5, dtype=torch.float64), requires_grad=False)
        self.vocabulary = ToyWords().get_vocab()

    def soft(self, weights, mask):
        words = (weights @ self.table) * mask[..., None]
        states = torch.einsum("ntd,tde->ne", words, self.mix[: words.shape[1]]).tanh()
        return nn.functional.normalize(states + 0.1, dim=-1)

    def texts(self, texts):
        rows = [[*ToyWords()(text).input_ids, 0] for text in texts]
        longest = max(map(len, rows))
        mask = torch.tensor([[place < len(row) for place in range(longest)] for row in rows])
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return self.soft(nn.functional.one_hot(ids, 4).double(), mask)


PROMPT = "red apple"


class Cut(ToyEncoder):
    """``texts`` of captions that were cut have no end; so that both readings agree, an end counts for nothing."""

    def soft(self, weights, mask):
        weights = weights.clone()
        weights[..., 0] = 0
        return super().soft(weights, mask)


def exact(captioner, value, picture) -> torch.Tensor:
    """The gradient of E[value(caption, picture)], summed over all captions."""
    captions = [
        c
        for n in (1, 2, 3)
        for c in itertools.product(range(4), repeat=n)
        if 0 not in c[:-1] and (c[-1] == 0 or n == 3)
    ]
    picture = picture.clone().requires_grad_(True)
    total, mass = 0.0, 0.0
    for caption in captions:
        ids = torch.tensor([caption])
        logits = captioner._logits(captioner.see(picture[None]), ids)
        p = logits.log_softmax(-1).gather(-1, ids[..., None]).sum().exp()
        text = captioner.tokenizer.batch_decode(ids)[0]
        total, mass = total + p * value(text, picture), mass + float(p.detach())
    assert mass == pytest.approx(1)
    return torch.autograd.grad(total, picture)[0].flatten()


def estimates(reward, picture, count: int, seed: int = 0) -> torch.Tensor:
    """(count, pixels): independent estimates of the gradient."""
    torch.manual_seed(seed)
    images = picture.expand(count, -1, -1, -1).clone().requires_grad_(True)
    return torch.autograd.grad(reward(images, [PROMPT] * count).sum(), images)[0].flatten(1)


def cosine(one, other) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


@pytest.fixture(scope="module")
def toy():
    return ToyCaptioner(), Cosine(Cut()), drawn(3, 2, 2, seed=5, dtype=torch.float64)


def errors(found, wanted) -> torch.Tensor:
    """Deviations of the mean from what is wanted, in standard errors."""
    return (found.mean(0) - wanted) / (found.std(0) / len(found) ** 0.5)


@pytest.mark.parametrize("captions", [2, 4, 8])
def test_the_score_function_is_unbiased(toy, captions):
    captioner, metric, picture = toy
    wanted = exact(captioner, lambda text, _: metric([text], [PROMPT])[0], picture)
    found = estimates(CaptionReward(captioner, metric, captions=captions), picture, 8000 // captions)
    assert cosine(found.mean(0), wanted) >= 0.99
    off = errors(found, wanted)
    assert off.abs().max() < 4
    assert float(found.mean(0).norm() / wanted.norm()) == pytest.approx(1, abs=0.1)


def test_straight_through_is_biased():
    """Beside the unbiased one, on three random captioners and encoders, from as many captions each: it points
    elsewhere, by far more than its error. (Cosines with the exact gradient: -0.24, 0.57 and -0.86, its length 1.4 to
    11 times too great; the score function's cosines are above 0.99.)"""
    cosines = []
    for seed in (100, 102, 105):
        captioner, encoder = ToyCaptioner(), Cut()
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in captioner.parameters():
                weight.normal_(std=0.8)
            captioner.eye.weight.normal_(std=1.5)
            encoder.table.normal_()
            encoder.mix.normal_()
        metric, picture = Cosine(encoder), drawn(3, 2, 2, seed=5, dtype=torch.float64)
        wanted = exact(captioner, lambda text, _, metric=metric: metric([text], [PROMPT])[0], picture)
        through = estimates(CaptionReward(captioner, metric, "straight_through"), picture, 1000)
        own = estimates(CaptionReward(captioner, metric), picture, 1000)
        assert cosine(own.mean(0), wanted) >= 0.99
        assert errors(through, wanted).abs().max() > 8
        cosines.append(cosine(through.mean(0), wanted))
    assert max(cosines) < 0.8


class Looking:
    """A measure that also looks at the picture."""

    reads_images = True

    def __init__(self, metric):
        self.metric = metric

    def __call__(self, captions, prompts, images):
        return self.metric(captions, prompts) * images[:, 0].mean((1, 2)) + images[:, 1].square().sum((1, 2))


def test_a_measure_that_looks_adds_its_own_path(toy):
    captioner, metric, picture = toy
    looking = Looking(metric)
    wanted = exact(captioner, lambda text, x: looking([text], [PROMPT], x[None])[0], picture)
    found = estimates(CaptionReward(captioner, looking), picture, 2000)
    assert cosine(found.mean(0), wanted) >= 0.99
    assert errors(found, wanted).abs().max() < 4
    own = exact(captioner, lambda text, _: metric([text], [PROMPT])[0], picture)
    assert cosine(own, wanted) < 0.99, "the added path matters in this test"


def test_the_baseline_leaves_each_draw_out():
    rewards = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    torch.testing.assert_close(leave_one_out(rewards), torch.tensor([[4.0, 5.0], [3.5, 5.0], [1.5, 5.0]]))
    assert not leave_one_out(rewards[:1]).any()
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.0]], requires_grad=True)
    score = estimated(rewards, log_prob)
    torch.testing.assert_close(score.detach(), rewards.mean(0))
    slope = torch.autograd.grad(score.sum(), log_prob)[0]
    torch.testing.assert_close(slope, torch.tensor([[-1.0, 0.0], [-0.5, 0.0], [1.5, 0.0]]))


def test_the_baseline_lowers_the_spread(toy):
    """Same captions with the baseline and without: what leave-one-out is for."""
    captioner, metric, picture = toy

    def spread(with_baseline: bool) -> float:
        images = picture.expand(1000, -1, -1, -1).clone().requires_grad_(True)
        torch.manual_seed(3)
        said = captioner.sample(images, 4)
        flat = [text for row in said.texts for text in row]
        rewards = metric(flat, [PROMPT] * len(flat)).view(4, -1) + 1
        plainly = (rewards * said.log_prob).mean(0)
        score = estimated(rewards, said.log_prob) if with_baseline else plainly
        return float(torch.autograd.grad(score.sum(), images)[0].flatten(1).var(0).sum())

    assert spread(True) < 0.5 * spread(False)


def test_captions_are_drawn_from_the_whole_distribution(toy):
    """Frequencies of 8,000 captions against their probabilities, and the log-probability of each as given."""
    captioner, _, picture = toy
    torch.manual_seed(0)
    said = captioner.sample(picture.expand(2000, -1, -1, -1), 4)
    texts = [text for row in said.texts for text in row]
    for text in ("", "red", "apple car", "red apple car"):
        row = texts.index(text)
        p = float(said.log_prob.flatten()[row].exp())
        share = texts.count(text) / len(texts)
        assert abs(share - p) < 4 * (p * (1 - p) / len(texts)) ** 0.5 + 1e-4, text
        if len(text.split()) < 3:  # not cut: the same as of the given text
            given = captioner.log_prob(picture[None], [text])
            assert (
                float(given.total) == pytest.approx(math.log(p))
                and int(given.tokens) == len(text.split()) + 1
            )


def test_a_picture_draws_the_same_captions_beside_others(toy):
    captioner, _, picture = toy
    alone = captioner.sample(picture[None], 4, makers(1))
    beside = captioner.sample(torch.stack([picture, 1 - picture]), 4, makers(2))
    assert [row[0] for row in alone.texts] == [row[0] for row in beside.texts]
    torch.testing.assert_close(alone.log_prob[:, 0], beside.log_prob[:, 0])


def test_modes_of_the_caption_reward(toy):
    captioner, metric, picture = toy
    images = picture[None].clone().requires_grad_(True)
    scores = {
        mode: CaptionReward(captioner, metric, mode)(images, [PROMPT], makers(1))
        for mode in ("score_function", "straight_through", "none")
    }
    assert not scores["none"].requires_grad and scores["score_function"].requires_grad
    for found in scores.values():  # the value is eq. 4's in all of them
        torch.testing.assert_close(found.detach(), scores["none"])
    with pytest.raises(RewardError, match="its scores carry no gradient"):
        probe(CaptionReward(captioner, metric, "none"), (2, 2), "cpu", [PROMPT, "car"], torch.float64)
    probe(CaptionReward(captioner, metric), (2, 2), "cpu", [PROMPT, "car"], torch.float64)
    with pytest.raises(RewardError, match="2 or more"):
        CaptionReward(captioner, metric, captions=1)
    with pytest.raises(RewardError, match="gradient: must be"):
        CaptionReward(captioner, metric, "gumbel")  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="reads weights over words"):
        CaptionReward(captioner, lambda captions, prompts: torch.ones(1), "straight_through")
    other = Cut()
    other.vocabulary = {"red": 0, "apple": 1}
    with pytest.raises(RewardError, match=r"one vocabulary.*toy \(4 words\).*\(2 words\)"):
        CaptionReward(captioner, Cosine(other), "straight_through")


# The real classes


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def captioners(words):
    return {
        "blip": BlipCaptioner(blip(words, BlipForConditionalGeneration), words, PROCESSOR, longest=6),
        "opt": Blip2Captioner(blip2_captioner(words, "opt"), words, PROCESSOR, longest=6),
        "t5": Blip2Captioner(blip2_captioner(words, "t5"), words, PROCESSOR, longest=6),
    }


@pytest.mark.parametrize("kind", ["blip", "opt", "t5"])
def test_log_probabilities_are_those_of_transformers(captioners, words, kind):
    """Its own forward pass, token by token, without a cache; and one caption a time, so that nothing is padded."""
    captioner = captioners[kind]
    images = drawn(2, 3, SIDE, SIDE)
    given = captioner.log_prob(images, PROMPTS)
    net, pixels = captioner.model, captioner.fitting(images)
    for row, text in enumerate(PROMPTS):
        ids = torch.tensor([[*words(text, add_special_tokens=False).input_ids, 3]])
        one = pixels[row : row + 1]
        with torch.no_grad():
            if kind == "blip":
                begin = torch.tensor([[net.config.text_config.bos_token_id]])
                logits = net(one, torch.cat([begin, ids[:, :-1]], 1)).logits
            elif kind == "opt":
                start = torch.tensor([[*[net.config.image_token_index] * 3, 2]])
                logits = net(one, torch.cat([start, ids[:, :-1]], 1)).logits[:, 3:]
            else:
                start = torch.tensor([[*[net.config.image_token_index] * 3, 2]])
                logits = net(one, start, labels=ids).logits
        logits = logits[..., : len(words)]
        wanted = logits.log_softmax(-1)[0].gather(-1, ids[0][:, None]).sum()
        assert float(given.total[row]) == pytest.approx(float(wanted), abs=1e-4)
        assert int(given.tokens[row]) == ids.shape[1]
    assert given.total[0] != given.total[1]


@pytest.mark.parametrize("kind", ["blip", "opt", "t5"])
def test_drawn_captions_and_their_gradient(captioners, kind):
    """With the cache the words come from the distribution that is then given a gradient: greedy words are the
    greatest of it, and a caption's log-probability is that of its text."""
    captioner = captioners[kind]
    images = drawn(2, 3, SIDE, SIDE).requires_grad_(True)
    said = captioner.sample(images, 3, makers(2))
    assert said.ids.shape == said.mask.shape and said.ids.shape[:2] == (3, 2) and said.ids.max() < 17
    assert len(said.texts) == 3 and len(said.texts[0]) == 2
    slope = torch.autograd.grad(said.log_prob.sum(), images)[0]
    assert slope.isfinite().all() and slope.any()
    greedy = copy.copy(captioner)
    greedy.temperature = 1e-4
    told = greedy.sample(images, 1)
    assert torch.equal(told.logits.argmax(-1)[told.mask], told.ids[told.mask])
    torch.testing.assert_close(told.log_prob, torch.zeros(1, 2), atol=1e-3, rtol=0)


def test_greedy_captions_are_those_of_generate(captioners, words):
    images = drawn(2, 3, SIDE, SIDE)
    for kind, captioner in captioners.items():
        greedy = copy.copy(captioner)
        greedy.temperature = 1e-4
        told = greedy.sample(images, 1)
        bad = [[word] for word in range(len(words), captioner.model.config.text_config.vocab_size)]
        wanted = captioner.model.generate(
            captioner.fitting(images), do_sample=False, num_beams=1, max_new_tokens=6, bad_words_ids=bad
        )
        begun = 4 if kind == "opt" else 1  # what generate was given comes back with the rest
        for row, ids, mask in zip(wanted.tolist(), told.ids[0], told.mask[0], strict=True):
            assert row[begun:][: int(mask.sum())] == ids[mask].tolist(), kind


def test_a_prefix_is_no_part_of_the_caption(captioners, words):
    captioner = BlipCaptioner(captioners["blip"].model, words, PROCESSOR, longest=4, prefix="a red")
    images = drawn(1, 3, SIDE, SIDE)
    whole = captioners["blip"]
    both = whole.log_prob(images, ["a red apple"]).total
    ids = torch.tensor([words("a red", add_special_tokens=False).input_ids])
    first = whole._logits(whole.see(images), ids).log_softmax(-1).gather(-1, ids[..., None]).sum()
    assert float(captioner.log_prob(images, ["apple"]).total) == pytest.approx(float(both - first), abs=1e-4)


class Spaced:
    """Words whose space is part of their token, as in OPT's vocabulary: " a" is not "a"."""

    words = ("<s>", "a", "photo", "Ġphoto", "Ġof", "Ġa", "Ġcat")

    def __len__(self):
        return len(self.words)

    def get_vocab(self):
        return {word: place for place, word in enumerate(self.words)}

    def __call__(self, text, add_special_tokens=False):
        parts = [("Ġ" if place else "") + word for place, word in enumerate(text.split(" "))]
        return types.SimpleNamespace(input_ids=[self.words.index(part) for part in parts])


@pytest.mark.parametrize("prefix", ["a photo of", "a photo of "])
def test_a_text_after_a_prefix_has_its_space(prefix):
    class Said(Autoregressive):
        end = 0

        def see(self, images):
            return images.flatten(1)[:, None, :1]

        def run(self, seen, ids, past=None, cached=False):
            self.asked = ids
            return torch.zeros(len(seen), ids.shape[1] + 1, len(Spaced.words)), None

    captioner = Said(Spaced(), len(Spaced.words), prefix=prefix)
    assert captioner.log_prob(drawn(1, 3, 4, 4), ["a cat"]).tokens.tolist() == [3]
    assert [Spaced.words[place] for place in captioner.asked[0]] == ["a", "Ġphoto", "Ġof", "Ġa", "Ġcat"]


@pytest.mark.parametrize("kind", ["blip", "opt", "t5"])
def test_one_picture_for_all_texts(captioners, kind):
    picture = drawn(1, 3, SIDE, SIDE)
    one = captioners[kind].log_prob(picture, PROMPTS).total
    torch.testing.assert_close(one, captioners[kind].log_prob(picture.expand(2, -1, -1, -1), PROMPTS).total)


def test_blip2_texts_hard_and_soft_are_transformers_own(words):
    encoder = Blip2TextEncoder(blip2_text(words, Blip2TextModelWithProjection), words)
    found = encoder.texts(PROMPTS)
    for row, text in enumerate(PROMPTS):
        ids = torch.tensor([words(text).input_ids])
        with torch.no_grad():
            wanted = encoder.model(input_ids=ids).text_embeds[0, 0]
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=0)
    rows = [[*words(text, add_special_tokens=False).input_ids, 3] for text in PROMPTS]
    longest = max(map(len, rows))
    weights = nn.functional.one_hot(torch.tensor([r + [0] * (longest - len(r)) for r in rows]), 17).float()
    mask = torch.tensor([[place < len(r) for place in range(longest)] for r in rows])
    torch.testing.assert_close(encoder.soft(weights, mask), found, atol=1e-5, rtol=0)
    assert float((found[0] - found[1]).norm()) > 0.05


def test_rewards_of_blip_carry_a_gradient(captioners, words, tmp_path):
    encoder = Blip2TextEncoder(blip2_text(words, Blip2TextModelWithProjection), words)
    captioner = captioners["blip"]
    for reward in (
        CaptionReward(captioner, Cosine(encoder)),
        CaptionReward(captioners["opt"], Cosine(encoder)),
        CaptionReward(captioner, Cosine(encoder), "straight_through"),
        PromptLikelihood(captioner),
        PromptLikelihood(captioners["t5"]),
    ):
        probe(reward, (24, 24), prompts=PROMPTS)
    images = drawn(2, 3, SIDE, SIDE)
    plain = PromptLikelihood(captioner, per_token=False, prior=False)(images, PROMPTS)
    torch.testing.assert_close(plain, captioner.log_prob(images, PROMPTS).total)
    mean = PromptLikelihood(captioner, prior=False)(images, PROMPTS)
    torch.testing.assert_close(mean * captioner.log_prob(images, PROMPTS).tokens, plain)
    grey = PromptLikelihood(captioner)(torch.full_like(images, 0.5), PROMPTS)
    torch.testing.assert_close(grey, torch.zeros(2), atol=1e-5, rtol=0)


def test_captioners_are_read_from_folders(captioners, words, tmp_path):
    images = drawn(2, 3, SIDE, SIDE)
    for kind in ("blip", "opt"):
        folder = tmp_path / kind
        for part in (captioners[kind].model, words, PROCESSOR):
            part.save_pretrained(folder)
        read = load_captioner(folder, longest=6)
        torch.testing.assert_close(
            read.log_prob(images, PROMPTS).total, captioners[kind].log_prob(images, PROMPTS).total
        )
    with pytest.raises(ValueError, match="not stable in float16"):
        load_captioner(tmp_path / "opt", dtype="float16")
    both = blip2_text(words, Blip2ForImageTextRetrieval)
    for part in (both, words, PROCESSOR):
        part.save_pretrained(tmp_path / "retrieval")
    encoder = load_blip2_text(tmp_path / "retrieval")
    assert encoder.texts(PROMPTS).shape == (2, 8)
    with pytest.raises(ValueError, match="is a clip; give a checkpoint of BLIP or BLIP-2"):
        load_captioner(_as_clip(tmp_path))


def _as_clip(folder):
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text('{"model_type": "clip"}')
    return folder / "clip"


@pytest.mark.parametrize("head", ["itm", "itc"])
@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_match_rewards_are_perceptions_scores(words, tmp_path, kind, head):
    """On pictures of the net's own size, where nothing is resized."""
    from PIL import Image

    made = (
        blip(words, BlipForImageTextRetrieval)
        if kind == "blip"
        else blip2_text(words, Blip2ForImageTextRetrieval)
    )
    for part in (made, words, PROCESSOR):
        part.save_pretrained(tmp_path)
    matcher = (Blip if kind == "blip" else Blip2)(str(tmp_path), head=head)
    reward = MatchReward(matcher)
    bytes_ = (drawn(2, 3, SIDE, SIDE) * 255).round().byte()
    pictures = [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in bytes_]
    wanted = matcher.match(pictures, PROMPTS)
    torch.testing.assert_close(reward(bytes_ / 255, PROMPTS), wanted, atol=1e-5, rtol=1e-4)
    probe(reward, (24, 24), prompts=PROMPTS)
    if head == "itm":
        odds = MatchReward(matcher, logit=True)(bytes_ / 255, PROMPTS)
        torch.testing.assert_close(odds.sigmoid(), wanted, atol=1e-5, rtol=1e-4)
    else:
        with pytest.raises(ValueError, match="only the head itm"):
            MatchReward(matcher, logit=True)


def test_clip_reward(tokenizer):
    clip = tiny_clip(tokenizer)
    images = drawn(2, 3, 32, 32)
    found = ClipReward(clip)(images, PROMPTS)
    wanted = (clip.images(images) @ clip.texts(PROMPTS).T).diagonal()
    torch.testing.assert_close(found, wanted)
    probe(ClipReward(clip), (48, 48))


# A user's own


def plugin(monkeypatch, function, name="mine"):
    module = types.ModuleType("my_rewards")
    module.score = function
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return PluginReward(name, "my_rewards:score")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda images, prompts: images.detach().mean((1, 2, 3)), "carry no gradient"),
        (lambda images, prompts: torch.ones(2, requires_grad=True) * 2, "do not depend on the pixels"),
        (lambda images, prompts: images.mean((1, 2, 3)) * 0, "its gradient is 0"),
        (lambda images, prompts: (images * 0).sum((1, 2, 3)).sqrt(), "its gradient is not finite"),
        (lambda images, prompts: images.mean((1, 2, 3)) * float("nan"), "gave nan for a picture"),
        (lambda images, prompts: images.mean(), r"2 scores, one for each picture \(got shape \(\)\)"),
        (lambda images, prompts: [1.0, 2.0], r"got a list"),
    ],
    ids=["detached", "constant", "zero", "infinite-slope", "nan", "one-number", "a-list"],
)
def test_a_probe_refuses(monkeypatch, function, problem):
    with pytest.raises(RewardError, match=f"reward mine: .*{problem}"):
        probe(plugin(monkeypatch, function), (8, 8))


def test_a_plugin_is_probed_and_used(monkeypatch):
    reward = plugin(monkeypatch, lambda images, prompts: images[:, 0].mean((1, 2)))
    probe(reward, (8, 8))
    assert float(reward(torch.full((1, 3, 4, 4), 0.25), ["x"])) == 0.25
    with pytest.raises(ValueError, match="cannot be imported"):
        PluginReward("x", "my_rewards:nothing")


# Several together


class Mean:
    name = "mean"

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def __call__(self, images, prompts, generators=None):
        return self.gain * images.mean((1, 2, 3))


def test_weights_and_running_estimates():
    rewards = Rewards({"one": (Mean(), 1.0), "loud": (Mean(100.0), 0.5), "seen": (Mean(3.0), 0.0)})
    seen = []
    for seed in range(4):
        images = drawn(4, 3, 4, 4, seed=seed).requires_grad_(True)
        parts = rewards.parts(images, ["x"] * 4)
        assert parts["one"].requires_grad and not parts["seen"].requires_grad
        rewards.take(parts)
        seen.append(parts["one"].detach().double())
        total = rewards.combine(parts)
    numbers = torch.cat(seen)
    running = rewards.running["one"]
    assert running.mean == pytest.approx(float(numbers.mean()), rel=1e-12)
    assert running.std == pytest.approx(float(numbers.std(correction=0)), rel=1e-9)
    # A hundred times as loud, standardised it is the same: total is 1.5 of it.
    torch.testing.assert_close(
        total.detach(),
        1.5 * ((seen[-1] - numbers.mean()) / numbers.std(correction=0)).float(),
        atol=1e-4,
        rtol=1e-4,
    )
    plain = Rewards({"one": (Mean(), 1.0), "loud": (Mean(100.0), -0.5)}, standardise=False)
    parts = plain.parts(images, ["x"] * 4)
    torch.testing.assert_close(plain.combine(parts), parts["one"] - 0.5 * parts["loud"])
    for wrong in ({"one": (Mean(), 0.0)}, {}):
        with pytest.raises(ValueError, match="a weight other than 0"):
            Rewards(wrong)
    with pytest.raises(ValueError, match="weight of one must be finite"):
        Rewards({"one": (Mean(), math.nan)})


def test_the_running_estimate_is_saved_and_restored_exactly(tmp_path):
    whole, first, second = Running(), Running(), Running()
    batches = [drawn(5, seed=seed, dtype=torch.float64) * 10**seed for seed in range(4)]
    for numbers in batches:
        whole.take(numbers)
    for numbers in batches[:2]:
        first.take(numbers)
    torch.save(
        dict(first.named_buffers()), tmp_path / "state.pt"
    )  # as TrainingLoop's checkpoints hold buffers
    second.state.copy_(torch.load(tmp_path / "state.pt", weights_only=True)["state"])
    for numbers in batches[2:]:
        second.take(numbers)
    assert torch.equal(second.state, whole.state)
    assert not whole.state_dict(), "no part of the weights that come out"
    assert Running().std == 1.0


def test_a_few_scores_that_hardly_differ_are_not_blown_up():
    running = Running()
    running.take(torch.tensor([0.5, 0.500001], dtype=torch.float64))
    assert running.std == 1.0
    running.take(drawn(LEAST - 2, dtype=torch.float64))
    assert 0.1 < running.std < 1


def test_a_net_in_rewards_stays_as_it_is(tokenizer):
    """Inference mode and frozen, also when the whole is told to train."""
    rewards = Rewards({"clip": (ClipReward(tiny_clip(tokenizer)), 1.0)})
    rewards.train()
    assert not any(net.training for net in rewards.nets.modules())
    assert not any(weight.requires_grad for weight in rewards.parameters())


# Against hacking


def test_diversity_and_drift():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 0.0], [-3.0, 0.0]])
    assert diversity(rows, ["a", "a", "b", "b", "c"]) == pytest.approx(0.5)  # (1 + 0) / 2; c is alone
    assert diversity(rows, ["a"] * 5) == pytest.approx(
        1 - sum(float(a @ b) for a, b in itertools.combinations(torch.nn.functional.normalize(rows), 2)) / 10
    )
    assert math.isnan(diversity(rows, list("abcde")))
    with pytest.raises(ValueError, match="one for each picture"):
        diversity(rows, ["a"])
    base = torch.ones(2, 1, 2, 2)
    torch.testing.assert_close(
        drift(base * torch.tensor([1.0, 1.5]).view(2, 1, 1, 1), base), torch.tensor([0, 0.5])
    )


def test_best_and_when_to_stop():
    best = Best(patience=2, least=0.1)
    assert best.take(0, 1.0)
    assert not best.take(10, 1.05) and not best.stale
    assert best.take(20, 1.2) and best.waited == 0
    assert not best.take(30, math.nan)
    again = Best(patience=2, least=0.1)
    again.load(best.state())
    assert not again.take(40, 1.0) and again.stale and (again.step, again.score) == (20, 1.2)
    assert not Best().stale
    with pytest.raises(ValueError, match="0 or more"):
        Best(patience=-1)


def test_the_table_of_rewards_holds():
    """Each entry is there, says its parts with an example, and no two parts of one name differ."""
    parts = {}
    for name in REWARDS:
        kind = reward_kind(name)
        assert isinstance(kind, RewardKind) and kind.parts, name
        for part in kind.parts:
            assert part.example and parts.setdefault(part.name, part) is part
    assert all(part.may_be in parts for part in parts.values() if part.may_be)
    assert list(parts) == list(model_parts())
