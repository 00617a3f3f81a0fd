"""The caption reward: what a captioner says of a picture, compared with the picture's prompt.

Source: Fang et al., "RealignDiff" (arXiv 2305.19599), eq. 4: R_cap = cos(f(caption), f(prompt)). The caption is text,
so nothing of R_cap has a gradient as it stands: written naively, eq. 5 trains by its second term alone. With captions
c ~ p(c | x) that are drawn, the gradient of what is expected is (scores as in Williams 1992, the baseline of Kool et
al. 2019, both standard)

    d/dx E[R(c, x)] = E[ (R(c, x) - b) d/dx log p(c | x) + d/dx R(c, x) ]

with b independent of c: the mean of the other captions' rewards. Only the draw of the caption is a score function;
from log p on all is pathwise through captioner, VAE and U-Net.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trueline.models.pixels import Images
from trueline.perception.caption_nets import (
    Captions,
    Generators,
    Likelihood,
    load_blip2_text,
    load_captioner,
)
from trueline.training.rewards.reward import ModelPart, RewardError, RewardKind, Scores

Gradient = Literal["score_function", "straight_through", "none"]
Draws = Float[Tensor, "k batch"]


class SampledCaptioner(Protocol):
    """Says what pictures (in 0..1) show. ``vocabulary``: word piece -> id of its tokens. ``log_prob`` takes one
    picture for each text, or one for all of them."""

    name: str
    vocabulary: dict[str, int]

    def sample(self, images: Images, k: int, generators: Generators | None = None) -> Captions: ...

    def log_prob(self, images: Images, texts: Sequence[str]) -> Likelihood: ...


class UnitTextEncoder(Protocol):
    """f: texts as unit vectors, without gradient (``FrozenCLIP`` is one)."""

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]: ...


class SoftTextEncoder(UnitTextEncoder, Protocol):
    """One that also reads weights over its words, with gradient; ``soft`` puts its own start before them."""

    vocabulary: dict[str, int]

    def soft(
        self, weights: Float[Tensor, "rows tokens words"], mask: Bool[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows d"]: ...


class TextMetric(Protocol):
    """How well captions fit prompts, row by row. One that also reads the pictures has ``reads_images`` = True and is
    given them as a third argument; its gradient by them counts."""

    def __call__(self, captions: Sequence[str], prompts: Sequence[str], *images: Images) -> Tensor: ...


# The estimator


def leave_one_out(rewards: Draws) -> Draws:
    """b_k: the mean of the other draws' rewards of the same picture; 0 for a single draw."""
    k = len(rewards)
    if k == 1:
        return torch.zeros_like(rewards)
    return (rewards.sum(0) - rewards) / (k - 1)


def estimated(rewards: Draws, log_prob: Draws) -> Scores:
    """The mean reward of each picture, whose gradient is the unbiased estimate of that of the expected reward.

    What is added to the mean is 0 in value: (R - b) (log p - log p without gradient), the mean over draws.
    """
    advantage = (rewards - leave_one_out(rewards)).detach()
    return (rewards + advantage * (log_prob - log_prob.detach())).mean(0)


def straight_through(logits: Float[Tensor, "*rows words"], ids: Int[Tensor, "*rows"]) -> Tensor:
    """One-hot tokens in value, softmax(logits) in gradient: biased (see ``CaptionReward``)."""
    soft = logits.softmax(-1)
    hard = torch.zeros_like(soft).scatter(-1, ids[..., None], 1.0)
    return hard + soft - soft.detach()


# The rewards


class Cosine:
    """Eq. 4's measure: the cosine of f(caption) and f(prompt)."""

    def __init__(self, encoder: UnitTextEncoder):
        self.encoder = encoder

    def __call__(self, captions: Sequence[str], prompts: Sequence[str], *images: Images) -> Tensor:
        places = {text: place for place, text in enumerate(dict.fromkeys([*captions, *prompts]))}
        vectors = self.encoder.texts(list(places))  # each distinct text once
        said, wanted = (vectors[[places[text] for text in texts]] for texts in (captions, prompts))
        return (said * wanted).sum(1)


class CaptionReward(nn.Module):
    """R_cap: the mean over ``captions`` drawn captions of their fit to the prompt. Its value is eq. 4's in all modes.

    Settings:
        metric: a ``TextMetric``; of eq. 4 ``Cosine(encoder)``. Words, not vectors, are compared: any measure will do.
        gradient:
            "score_function": ``estimated``, unbiased for a captioner that samples. Two draws at least, or there is no
                baseline.
            "straight_through": onehot + p - sg(p) as the encoder's words, where both have the same words. Biased: it
                takes a word's neighbours for differentiable and ignores that another word leads to another
                continuation. On toys that can be enumerated it even points the wrong way (tests).
            "none": scores only; ReFL refuses it.

    Raises:
        RewardError: a mode that these parts cannot do.
    """

    name = "caption"

    def __init__(
        self,
        captioner: SampledCaptioner,
        metric: TextMetric,
        gradient: Gradient = "score_function",
        captions: int = 4,
    ):
        super().__init__()
        if captions < 1 or (captions < 2 and gradient == "score_function"):
            raise RewardError(f"captions: must be 2 or more for the leave-one-out baseline (got {captions})")
        if gradient not in ("score_function", "straight_through", "none"):
            raise RewardError(
                f"gradient: must be score_function, straight_through or none (got {gradient!r}); prompt_likelihood "
                "is a reward of its own"
            )
        if gradient == "straight_through":
            _same_words(captioner, metric)
        self.captioner, self.metric, self.gradient, self.captions = captioner, metric, gradient, captions
        parts = [captioner, getattr(metric, "encoder", None), metric]
        self.nets = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])

    def forward(self, images: Images, prompts: Sequence[str], generators: Generators | None = None) -> Scores:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient != "none"):
            said = self.captioner.sample(images, self.captions, generators)
            rewards = self._fit(said, images, prompts).to(said.log_prob)
            if self.gradient == "score_function":
                return estimated(rewards, said.log_prob)
            if self.gradient == "straight_through":
                soft = self._soft(said, prompts).to(rewards)
                return (rewards + soft - soft.detach()).mean(0)
            return rewards.mean(0)

    def _fit(self, said: Captions, images: Images, prompts: Sequence[str]) -> Draws:
        k = len(said.texts)
        flat = [text for row in said.texts for text in row]
        seen = [images.repeat(k, 1, 1, 1)] if getattr(self.metric, "reads_images", False) else []
        return self.metric(flat, list(prompts) * k, *seen).view(k, len(prompts)).to(images.device)

    def _soft(self, said: Captions, prompts: Sequence[str]) -> Draws:
        encoder: Any = self.metric.encoder  # type: ignore[attr-defined]
        words = len(encoder.vocabulary)
        tokens = straight_through(said.logits, said.ids)[..., :words]
        vectors = encoder.soft(tokens.flatten(0, 1), said.mask.flatten(0, 1))
        wanted = encoder.texts(prompts).to(vectors)
        return (vectors.unflatten(0, said.ids.shape[:2]) * wanted).sum(-1)


def _same_words(captioner: SampledCaptioner, metric: TextMetric) -> None:
    encoder = getattr(metric, "encoder", None)
    if not hasattr(encoder, "soft"):
        raise RewardError(
            "gradient: straight_through needs a text encoder that reads weights over words, such as BLIP-2's; use "
            "score_function"
        )
    theirs, own = encoder.vocabulary, captioner.vocabulary  # type: ignore[union-attr]
    if any(theirs.get(word) != place for word, place in own.items()):
        raise RewardError(
            f"gradient: straight_through needs one vocabulary, and that of {captioner.name} ({len(own)} words) is "
            f"not its text encoder's ({len(theirs)} words); use score_function"
        )


class PromptLikelihood(nn.Module):
    """log p(prompt | picture) of a captioner, in nats a token (CoMat's reward, by teacher forcing): exact gradient.

    Another objective than R_cap: it rewards how likely the words are, and so prefers frequent ones and short prompts.

    Settings:
        per_token: divide by the tokens of the prompt; False = the sum.
        prior: subtract the same of a grey picture. It is a constant to the gradient, but makes scores of different
            prompts comparable (and so their running spread).
    """

    name = "prompt_likelihood"

    def __init__(self, captioner: SampledCaptioner, per_token: bool = True, prior: bool = True):
        super().__init__()
        self.captioner, self.per_token, self.prior = captioner, per_token, prior
        self.nets = nn.ModuleList([captioner] if isinstance(captioner, nn.Module) else [])

    def forward(self, images: Images, prompts: Sequence[str], generators: Generators | None = None) -> Scores:
        found = self.captioner.log_prob(images, prompts)
        score = found.total
        if self.prior:
            with torch.no_grad():
                unseen = self.captioner.log_prob(torch.full_like(images[:1], 0.5), prompts).total
            score = score - unseen
        return score / found.tokens.clamp(min=1).to(score) if self.per_token else score


# The table's entries


def _captioner(name: str, device: str, settings: Any) -> SampledCaptioner:
    own = settings.model_dump(include={"longest", "temperature", "prefix"})
    return load_captioner(name, device, settings.dtype, **own)


def _text_encoder(name: str, device: str, settings: Any) -> UnitTextEncoder:
    return load_blip2_text(name, device, settings.dtype)


CAPTIONER = ModelPart(
    "captioner",
    _captioner,
    "Salesforce/blip2-opt-2.7b or Salesforce/blip-image-captioning-base",
    shipped="captioner",
)
TEXT_ENCODER = ModelPart("text_encoder", _text_encoder, "Salesforce/blip2-itm-vit-g, or clip", may_be="clip")
CAPTION = RewardKind(
    (CAPTIONER, TEXT_ENCODER),
    lambda settings, captioner, encoder: CaptionReward(
        captioner, Cosine(encoder), settings.gradient, settings.captions
    ),
)
PROMPT_LIKELIHOOD = RewardKind((CAPTIONER,), lambda settings, captioner: PromptLikelihood(captioner))
