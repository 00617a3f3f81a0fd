"""Judges made of pretrained models: each looks at pictures with one model and gives the metrics that follow from it.

Metrics are named after the model that measured them: ``clip_score[clip]``, ``spatial[owlv2,official]``. A judge says
nothing about examples that its rule does not ask about.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from trueline.english.noun_chunks import b_vqa, best_parser, questions, without_adjectives
from trueline.evaluation.benchmarks import Example
from trueline.evaluation.benchmarks.t2i_compbench.rules import three_in_one
from trueline.evaluation.bindings import BINDINGS, box_labels, box_truths, boxes, needs_colours
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judgements import FEATURES, RATIO, Distance, Seen, detected, ratios, true_boxes
from trueline.evaluation.metrics.clip_score import clip_scores
from trueline.evaluation.metrics.observations import Mode
from trueline.evaluation.metrics.regions import Rule, crop
from trueline.evaluation.run import Judge
from trueline.perception import Answerer, Detection, Detector, Embedder, FeatureExtractor, Matcher, load
from trueline.perception.colours import clip_colours, hue_colours

#: Kind of a model (``perception.KINDS``) -> what it does here; a plug-in is a matcher.
ROLES = {
    "owlv2": "detector", "owlv2-per-label": "detector", "grounding-dino": "detector", "oracle": "detector",
    "clip": "embedder", "negclip": "embedder", "world-clip": "embedder",
    "blip-vqa": "answerer", "inception-tf": "features", "clean": "features",
}  # fmt: skip
CROP: Rule = "padded"  #: of region CLIP scores and distances
#: Benchmark -> metric that its papers report -> the kinds of models it needs, one of each group.
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "7bench": {"layout_auc": ("detector",)},
    "abc-6k": {"clip_score": ("embedder",), "b_vqa": ("answerer",)},
    "cc-500": {"both_objects": ("detector",), "b_vqa": ("answerer",)},
    "coco": {
        "fid, kid": ("features",), "cmmd, clip_score, region_clip_score": ("embedder",),
        "object_accuracy, mean_iou, ap": ("detector",),
    },
    "drawbench": {"clip_score": ("embedder",)},
    "geneval": {"accuracy": ("detector", "embedder")},
    "hrs": {"counting, spatial, size and color accuracy": ("detector",)},
    "imagereward": {"clip_score": ("embedder",)},
    "multigen": {"mg1..mg5": ("detector",)},
    "nsr-1k": {"counting_accuracy, spatial_accuracy": ("detector",), "clip_score": ("embedder",)},
    "partiprompts": {"clip_score": ("embedder",)},
    "t2i-compbench": {
        "b_vqa": ("answerer",), "spatial, numeracy": ("detector",), "clip_score": ("embedder",),
        "three_in_one": ("answerer", "detector", "embedder"),
    },
}  # fmt: skip
EXAMPLES_OF = {
    "detector": "owlv2=google/owlv2-base-patch16-ensemble", "embedder": "clip=openai/clip-vit-base-patch32",
    "answerer": "blip-vqa=Salesforce/blip-vqa-base", "features": "inception-tf=FILE",
}  # fmt: skip


def role(name: str) -> str:
    """What ``kind=checkpoint`` does: "detector", "embedder", "answerer", "features" or "matcher"."""
    return ROLES.get(name.partition("=")[0].strip(), "matcher")


def unmeasured(benchmark: str, names: Sequence[str], categories: Collection[str] = ()) -> list[str]:
    """One sentence for each usual metric of the benchmark that these models cannot give."""
    there = {role(name) for name in names}
    found = []
    if "3d_spatial" in categories:
        found.append(
            "not measured: 3d_spatial (its rule, rules.compbench.spatial_3d_score, wants depth maps)"
        )
    for metric, needed in NEEDS.get(benchmark, {}).items():
        if missing := [kind for kind in needed if kind not in there]:
            cure = " and ".join(f"--judges {EXAMPLES_OF[kind]}" for kind in missing)
            found.append(f"not measured: {metric} (for it, give {cure})")
    return found


def make_judges(
    names: Sequence[str], benchmark: str, mode: Mode, device: str, dtype: str, real: bool
) -> list[Judge]:
    """The judges of ``kind=checkpoint`` names, for one benchmark. ``real``: there are real pictures to compare with.

    Raises:
        ValueError: a model that cannot be loaded, or two of one name.
    """
    models = [(role(name), load(name, device, dtype)) for name in names]
    if twice := [name for name, times in Counter(model.name for _, model in models).items() if times > 1]:
        raise ValueError(f"--judges: there are two of {twice[0]}; results are named after them, give one")
    embedder = next((model for kind, model in models if kind == "embedder"), None)
    makers: dict[str, Any] = {
        "detector": lambda model: Boxes(model, benchmark, mode, embedder),
        "embedder": lambda model: Fit(model, benchmark, real),
        "answerer": lambda model: Questions(model),
        "features": lambda model: Sets(model),
        "matcher": lambda model: Match(model),
    }
    return [makers[kind](model) for kind, model in models if kind != "features" or real]


class Fit:
    """``clip_score``: cosine of picture and prompt; ``region_clip_score``: of each region's crop and its phrase. With
    real pictures also ``cmmd``, and features of regions. ``clip_score_nouns``: of complex prompts, read without their
    adjectives, as T2I-CompBench's 3-in-1 wants it."""

    precision = ""

    def __init__(self, model: Embedder, benchmark: str, real: bool):
        self.model, self.benchmark, self.real = model, benchmark, real
        self.name = _safe(model.name)
        self.parser = best_parser()
        self.protocol = f"{_protocol(model)}, cosine; crop {CROP}"
        self.distances = (Distance(f"cmmd[{model.name}]", "cmmd", model.name),) if real else ()

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        whole = self.model.images(images)
        scores = clip_scores(whole, self.model.texts([example.prompt for example in examples]))
        seen = []
        for row, (example, image) in enumerate(zip(examples, images, strict=True)):
            found = {f"clip_score[{self.model.name}]": (float(scores[row]), 1.0)}
            if example.category == "complex" and self.benchmark == "t2i-compbench":
                nouns = self.model.texts([without_adjectives(example.prompt, self.parser)])
                found[f"clip_score_nouns[{self.model.name},{self.parser}]"] = (
                    float(clip_scores(whole[row : row + 1], nouns)[0]), 1.0,
                )  # fmt: skip
            crops = [crop(image, region.box.xyxy, CROP) for region in example.layout.regions]
            if crops:
                phrases = self.model.texts([region.phrase for region in example.layout.regions])
                cosines = clip_scores(self.model.images([c for c in crops if c is not None]), phrases)
                found[f"region_clip_score[{self.model.name},{CROP}]"] = (
                    float(cosines.sum()),
                    float(len(cosines)),
                )
            features = {f"{FEATURES}{self.model.name}": whole[row : row + 1].numpy()} if self.real else {}
            seen.append(ratios(found) | features)
        return seen


class Match:
    """One number a picture: PickScore, BLIP's ITM or ITC, a plug-in."""

    precision, distances = "", ()

    def __init__(self, model: Matcher):
        self.model, self.name, self.protocol = model, _safe(model.name), _protocol(model)

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        scores = self.model.match(images, [example.prompt for example in examples])
        return [ratios({self.model.name: (float(score), 1.0)}) for score in scores]


class Questions:
    """``b_vqa``: T2I-CompBench's product of the answers to a question per noun chunk."""

    precision, distances = "", ()

    def __init__(self, model: Answerer):
        self.model, self.name = model, _safe(model.name)
        self.parser = best_parser()
        self.protocol = f"{_protocol(model)}, noun chunks by {self.parser}"

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        asked = [questions(example.prompt, self.parser) for example in examples]
        pairs = [(image, each) for image, some in zip(images, asked, strict=True) for each in some]
        answers = iter(self.model.yes([image for image, _ in pairs], [each for _, each in pairs]).tolist())
        metric = f"b_vqa[{self.model.name},{self.parser}]"
        return [ratios({metric: (b_vqa([next(answers) for _ in some]), 1.0)}) for some in asked]


class Sets:
    """Features of pictures for ``fid`` and ``kid``, and of the regions' crops for ``region_fid``."""

    precision = ""

    def __init__(self, model: FeatureExtractor):
        self.model, self.name, self.protocol = model, _safe(model.name), f"{_protocol(model)}; crop {CROP}"
        whole, parts = model.name, f"{model.name}-regions"
        self.distances = (
            Distance(f"fid[{whole}]", "frechet", whole), Distance(f"kid[{whole}]", "kid", whole),
            Distance(f"region_fid[{whole},{CROP}]", "frechet", parts),
        )  # fmt: skip

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        whole = self.model.features(images).numpy()
        seen = []
        for row, (example, image) in enumerate(zip(examples, images, strict=True)):
            crops = [crop(image, region.box.xyxy, CROP) for region in example.layout.regions]
            parts = self.model.features([c for c in crops if c]).numpy() if crops else whole[:0]
            seen.append(
                {
                    f"{FEATURES}{self.model.name}": whole[row : row + 1],
                    f"{FEATURES}{self.model.name}-regions": parts,
                }
            )
        return seen


class Boxes:
    """A detector: the benchmark's own rule on what it finds, and how well the layout's boxes are kept."""

    distances = ()

    def __init__(self, model: Detector, benchmark: str, mode: Mode, embedder: Embedder | None):
        self.model, self.mode, self.embedder = model, mode, embedder
        self.binding = BINDINGS.get(benchmark)
        self.name = f"{_safe(model.name)}-{mode}"
        self.precision = f"ap[{model.name}]"
        least = (
            f", rule's threshold {self.binding.threshold:g}"
            if self.binding and self.binding.threshold
            else ""
        )
        colours = f", colours by {embedder.name}" if embedder and self._reads_colours == "clip" else ""
        self.protocol = f"{_protocol(model)}, {benchmark} rules, {mode}{least}{colours}"

    @property
    def _reads_colours(self) -> str:
        return self.binding.colours if self.binding else ""

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        asked = [self.binding.labels(example) if self.binding else [] for example in examples]
        labels = [
            list(dict.fromkeys([*own, *box_labels(example)]))
            for own, example in zip(asked, examples, strict=True)
        ]
        found = self.model.detect(images, labels)
        return [
            self._score(example, image, seen, bool(own))
            for example, image, seen, own in zip(examples, images, found, asked, strict=True)
        ]

    def _score(self, example: Example, image: Image, found: list[Detection], asked: bool) -> Seen:
        observed = boxes(example, found, image.size, self.mode)
        if self.binding and asked:
            if needs_colours(example):
                found = self._coloured(image, found)
            observed |= self.binding.score(example, found, image.size, self.mode, self.binding.threshold)
        named = {f"{metric}[{self.model.name},{self.mode}]": pair for metric, pair in observed.items()}
        truths = box_truths(example)
        return (
            ratios(named)
            | detected([(d.label, d.colour, d.texture, d.box, d.score) for d in found])
            | true_boxes([t.label for t in truths], [t.box for t in truths])
        )

    def _coloured(self, image: Image, found: list[Detection]) -> list[Detection]:
        """With colours, where the detector gives none.

        Raises:
            ValueError: GenEval's rule without an embedder that reads them.
        """
        if all(d.colour for d in found):
            return found
        if self._reads_colours == "hue":
            return hue_colours(image, found)
        if self._reads_colours == "clip":
            if self.embedder is None:
                raise ValueError(f"--judges: colours are read by CLIP; add {EXAMPLES_OF['embedder']}")
            return clip_colours(self.embedder, image, found)
        return found


class Combined:
    """What needs several judges: T2I-CompBench's 3-in-1 of a complex prompt.

    A picture has none where a part that its kind of prompt needs was not measured, or was measured twice over.
    """

    name, precision, distances = "combined", "", ()
    protocol = "mean of b_vqa, 2D-spatial and CLIP score without adjectives, as the kind of the prompt says"

    def __init__(self, benchmark: str):
        self.benchmark = benchmark

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Seen]:
        """Nothing: it looks at what others saw."""
        return [{} for _ in examples]

    def combine(self, pictures: Sequence[Wanted], seen: Mapping[str, Sequence[Seen]]) -> list[Seen]:
        if self.benchmark != "t2i-compbench":
            return [{} for _ in pictures]
        every = [
            {key: value for by in seen.values() for key, value in by[i].items()} for i in range(len(pictures))
        ]
        return [_three_in_one(picture.example, each) for picture, each in zip(pictures, every, strict=True)]


def _three_in_one(example: Example, seen: Seen) -> Seen:
    if example.category != "complex":
        return {}
    kind, values = example.truth["kind"], {"complex_spatial": 0.0, "clip_score_nouns": 0.0}
    needed = ["b_vqa"] + ["complex_spatial"] * ("spatial" in kind) + ["clip_score_nouns"] * ("action" in kind)
    for part in needed:
        found = [array for key, array in seen.items() if key.startswith(f"{RATIO}{part}[")]
        if len(found) != 1:
            return {}
        values[part] = float(found[0][0])
    score = three_in_one(values["b_vqa"], values["complex_spatial"], values["clip_score_nouns"], kind)
    return ratios({"three_in_one": (score, 1.0)})


def _protocol(model: Any) -> str:
    return str(getattr(model, "protocol", model.name))


def _safe(name: str) -> str:
    """The name as part of a path; a digest stands for what a path cannot hold."""
    if all(c.isalnum() or c in "-_." for c in name) and not name.startswith("."):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:12]
