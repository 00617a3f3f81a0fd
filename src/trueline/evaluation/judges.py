"""Judges made of pretrained models: each looks at pictures with one model and gives the metrics that follow from it.

Metrics are named after the model that measured them: ``clip_score[clip]``, ``spatial[owlv2,official]``. A judge says
nothing about examples that its rule does not ask about.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from PIL.Image import Image

from trueline.english.noun_chunks import b_vqa, best_parser, questions, without_adjectives
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Size
from trueline.evaluation.benchmarks.overlaybench import overlay_score
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judgements import (
    FEATURES,
    RATIO,
    Judgement,
    SetDistance,
    detected,
    ratio_names,
    ratios,
    true_boxes,
)
from trueline.evaluation.metrics.clip_score import clip_scores
from trueline.evaluation.metrics.detection import Truth, layout_score, score_boxes
from trueline.evaluation.metrics.observations import Mode, Observations
from trueline.evaluation.metrics.regions import Rule, crop
from trueline.evaluation.run import Judge
from trueline.perception import (
    Answerer,
    Detection,
    Detector,
    Embedder,
    FeatureExtractor,
    Matcher,
    Segmenter,
    load,
)
from trueline.perception.colours import clip_colours, hue_colours

#: Kind of a model (``perception.KINDS``) -> what it does here; a plug-in is a matcher.
ROLES = {
    "owlv2": "detector",
    "owlv2-per-label": "detector",
    "grounding-dino": "detector",
    "oracle": "detector",
    "clip": "embedder",
    "negclip": "embedder",
    "world-clip": "embedder",
    "blip-vqa": "answerer",
    "sam": "segmenter",
    "sam2": "segmenter",
    "world-seer": "segmenter",
    "inception-tf": "features",
    "clean": "features",
}
CROP: Rule = "padded"  #: of region CLIP scores and distances
EXAMPLES_OF = {
    "detector": "owlv2=google/owlv2-base-patch16-ensemble",
    "embedder": "clip=openai/clip-vit-base-patch32",
    "answerer": "blip-vqa=Salesforce/blip-vqa-base",
    "features": "inception-tf=FILE",
    "segmenter": "sam=facebook/sam-vit-huge",
}


def role(name: str) -> str:
    """What ``kind=checkpoint`` does: "detector", "embedder", "answerer", "features", "segmenter" or "matcher"."""
    return ROLES.get(name.partition("=")[0].strip(), "matcher")


def unmeasured(
    benchmark: type[Benchmark], names: Sequence[str], categories: Collection[str] = ()
) -> list[str]:
    """One sentence for each usual metric of the benchmark that these models cannot give."""
    roles = {role(name) for name in names}
    notes = [
        f"not measured: {category} ({why})"
        for category, why in benchmark.unmeasured.items()
        if category in categories
    ]
    notes += [f"not measured: {metric} ({why})" for metric, why in benchmark.beyond.items()]
    for metric, needed in benchmark.needs.items():
        if missing := [kind for kind in needed if kind not in roles]:
            cure = " and ".join(f"judges {EXAMPLES_OF[kind]}" for kind in missing)
            notes.append(f"not measured: {metric} (for it, give {cure})")
    return notes


def make_judges(
    names: Sequence[str], benchmark: type[Benchmark], mode: Mode, device: str, dtype: str, real: bool
) -> list[Judge]:
    """The judges of ``kind=checkpoint`` names, for one benchmark. ``real``: there are real pictures to compare with.

    Raises:
        ValueError: a model that cannot be loaded, or two of one name.
    """
    models = [(role(name), load(name, device, dtype)) for name in names]
    if twice := [name for name, times in Counter(model.name for _, model in models).items() if times > 1]:
        raise ValueError(f"judges: there are two of {twice[0]}; results are named after them, give one")
    embedder, segmenter = (
        next((model for kind, model in models if kind == helper), None)
        for helper in ("embedder", "segmenter")
    )
    makers: dict[str, Any] = {
        "detector": lambda model: Boxes(model, benchmark, mode, embedder, segmenter),
        "embedder": lambda model: TextMatch(model, benchmark, real),
        "answerer": lambda model: OwnQuestions(model, benchmark) if benchmark.asks else Questions(model),
        "features": lambda model: Sets(model),
        "matcher": lambda model: PairScore(model),
    }
    left_out = {"segmenter"} if real else {"segmenter", "features"}  # a segmenter judges nothing by itself
    return [makers[kind](model) for kind, model in models if kind not in left_out]


class TextMatch:
    """``clip_score``: cosine of picture and prompt; ``region_clip_score``: of each region's crop and its phrase. With
    real pictures also ``cmmd``, and features of regions. ``clip_score_nouns``: of prompts read without their
    adjectives, where the benchmark asks for it (T2I-CompBench's 3-in-1); ``overlay_score`` of the layout likewise
    (OverLayBench)."""

    precision = ""

    def __init__(self, model: Embedder, benchmark: type[Benchmark], real: bool):
        self.model, self.benchmark, self.real = model, benchmark, real
        self.name = _safe(model.name)
        self.parser = best_parser()
        self.protocol = f"{_protocol(model)}, cosine; crop {CROP}"
        self.distances = (SetDistance(f"cmmd[{model.name}]", "cmmd", model.name),) if real else ()

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        whole = self.model.images(images)
        scores = clip_scores(whole, self.model.texts([example.prompt for example in examples]))
        seen = []
        for row, (example, image) in enumerate(zip(examples, images, strict=True)):
            found = {f"clip_score[{self.model.name}]": (float(scores[row]), 1.0)}
            if self.benchmark.asks_nouns(example):
                nouns = self.model.texts([without_adjectives(example.prompt, self.parser)])
                score = float(clip_scores(whole[row : row + 1], nouns)[0])
                found[f"clip_score_nouns[{self.model.name},{self.parser}]"] = (score, 1.0)
            crops = [crop(image, region.box.xyxy, CROP) for region in example.layout.regions]
            if crops:
                phrases = self.model.texts([region.phrase for region in example.layout.regions])
                cosines = clip_scores(self.model.images([c for c in crops if c is not None]), phrases)
                summed = float(cosines.sum()), float(len(cosines))
                found[f"region_clip_score[{self.model.name},{CROP}]"] = summed
                if self.benchmark.overlaps:
                    boxes = [region.box.xyxy for region in example.layout.regions]
                    hard = overlay_score(boxes, (phrases @ phrases.T).tolist())
                    found[f"overlay_score[{self.model.name}]"] = (hard, 1.0)
            features = {f"{FEATURES}{self.model.name}": whole[row : row + 1].numpy()} if self.real else {}
            seen.append(ratios(found) | features)
        return seen


class PairScore:
    """One number a picture: PickScore, BLIP's ITM or ITC, a plug-in."""

    precision, distances = "", ()

    def __init__(self, model: Matcher):
        self.model, self.name, self.protocol = model, _safe(model.name), _protocol(model)

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        scores = self.model.match(images, [example.prompt for example in examples])
        return [ratios({self.model.name: (float(score), 1.0)}) for score in scores]


class Questions:
    """``b_vqa``: T2I-CompBench's product of the answers to a question per noun chunk."""

    precision, distances = "", ()

    def __init__(self, model: Answerer):
        self.model, self.name = model, _safe(model.name)
        self.parser = best_parser()
        self.protocol = f"{_protocol(model)}, noun chunks by {self.parser}"

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        asked = [questions(example.prompt, self.parser) for example in examples]
        pairs = [(image, each) for image, some in zip(images, asked, strict=True) for each in some]
        answers = iter(self.model.yes([image for image, _ in pairs], [each for _, each in pairs]).tolist())
        metric = f"b_vqa[{self.model.name},{self.parser}]"
        return [ratios({metric: (b_vqa([next(answers) for _ in some]), 1.0)}) for some in asked]


class OwnQuestions:
    """What the benchmark's rule makes of the answers to its own questions (GenEval 2's Soft-TIFA)."""

    precision, distances = "", ()

    def __init__(self, model: Answerer, benchmark: type[Benchmark]):
        self.model, self.benchmark, self.name = model, benchmark, _safe(model.name)
        self.protocol = f"{_protocol(model)}, questions of {benchmark.name}"

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        asked = [self.benchmark.questions(example) for example in examples]
        pairs = [(image, *each) for image, some in zip(images, asked, strict=True) for each in some]
        pictures, questions, right = zip(*pairs, strict=True) if pairs else ((), (), ())
        answers = iter(self.model.says(pictures, questions, right).tolist())
        seen = []
        for example, some in zip(examples, asked, strict=True):
            scores = self.benchmark.score_answers(example, [next(answers) for _ in some])
            seen.append(ratios({f"{metric}[{self.model.name}]": pair for metric, pair in scores.items()}))
        return seen


class Sets:
    """Features of pictures for ``fid`` and ``kid``, and of the regions' crops for ``region_fid``."""

    precision = ""

    def __init__(self, model: FeatureExtractor):
        self.model, self.name, self.protocol = model, _safe(model.name), f"{_protocol(model)}; crop {CROP}"
        whole, parts = model.name, f"{model.name}-regions"
        self.distances = (
            SetDistance(f"fid[{whole}]", "frechet", whole),
            SetDistance(f"kid[{whole}]", "kid", whole),
            SetDistance(f"region_fid[{whole},{CROP}]", "frechet", parts),
        )

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        whole = self.model.features(images).numpy()
        seen = []
        for row, (example, image) in enumerate(zip(examples, images, strict=True)):
            crops = [crop(image, region.box.xyxy, CROP) for region in example.layout.regions]
            parts = self.model.features([c for c in crops if c]).numpy() if crops else whole[:0]
            key = f"{FEATURES}{self.model.name}"
            seen.append({key: whole[row : row + 1], f"{key}-regions": parts})
        return seen


class Boxes:
    """A detector: the benchmark's own rule on what it finds, and how well the layout's boxes are kept."""

    distances = ()

    def __init__(
        self,
        model: Detector,
        benchmark: type[Benchmark],
        mode: Mode,
        embedder: Embedder | None,
        segmenter: Segmenter | None = None,
    ):
        self.model, self.benchmark, self.mode = model, benchmark, mode
        self.embedder, self.segmenter = embedder, segmenter
        self.name = f"{_safe(model.name)}-{mode}"
        self.precision = f"ap[{model.name}]"
        least = f", rule's threshold {benchmark.threshold:g}" if benchmark.threshold else ""
        colours = f", colours by {embedder.name}" if embedder and benchmark.colours == "clip" else ""
        masks = f", masks by {_protocol(segmenter)}" if segmenter else ""
        self.protocol = f"{_protocol(model)}, {benchmark.name} rules, {mode}{least}{colours}{masks}"

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        asked = [self.benchmark.labels(example) for example in examples]
        labels = [
            list(dict.fromkeys([*own, *(region.phrase for region in example.layout.regions)]))
            for own, example in zip(asked, examples, strict=True)
        ]
        found = self.model.detect(images, labels)
        return [
            self._score(example, image, detections, bool(own))
            for example, image, detections, own in zip(examples, images, found, asked, strict=True)
        ]

    def _score(self, example: Example, image: Image, found: list[Detection], asked: bool) -> Judgement:
        truths = [Truth(region.phrase, region.box.xyxy) for region in example.layout.regions]
        observed = kept_boxes(found, truths, image.size, self.mode)
        if asked:
            if self.benchmark.asks_colours(example):
                found = self._coloured(image, found)
            threshold = self.benchmark.threshold
            observed |= self.benchmark.score_picture(
                example, found, image, self.segmenter, self.mode, threshold
            )
        named = {f"{metric}[{self.model.name},{self.mode}]": pair for metric, pair in observed.items()}
        return (
            ratios(named)
            | detected([(d.label, d.colour, d.texture, d.box, d.score) for d in found])
            | true_boxes([t.label for t in truths], [t.box for t in truths])
        )

    def _coloured(self, image: Image, found: list[Detection]) -> list[Detection]:
        """With colours, where the detector gives none.

        Raises:
            ValueError: a rule whose colours CLIP reads (GenEval), without an embedder.
        """
        if all(d.colour for d in found):
            return found
        if self.benchmark.colours == "hue":
            return hue_colours(image, found)
        if self.benchmark.colours == "clip":
            if self.embedder is None:
                raise ValueError(f"judges: colours are read by CLIP; add {EXAMPLES_OF['embedder']}")
            return clip_colours(self.embedder, image, found)
        return found


def kept_boxes(found: Sequence[Detection], truths: Sequence[Truth], size: Size, mode: Mode) -> Observations:
    """Whether a layout's regions are kept: found at IoU >= 0.5, overlap, and 7Bench's area over IoU."""
    if not truths:
        return {}
    scores = score_boxes(found, truths)
    count = float(scores.truths)
    return {
        "object_accuracy": (float(scores.found), count),
        "mean_iou": (scores.overlap, count),
        **layout_score(found, truths, size, mode),
    }


class Combined:
    """What needs several judges, as the benchmark combines them: T2I-CompBench's 3-in-1 of a complex prompt."""

    name, precision, distances = "combined", "", ()
    protocol = "mean of b_vqa, 2D-spatial and CLIP score without adjectives, as the kind of the prompt says"

    def __init__(self, benchmark: type[Benchmark]):
        self.benchmark = benchmark

    def look(self, examples: Sequence[Example], images: Sequence[Image]) -> list[Judgement]:
        """Nothing: it looks at what others saw."""
        return [{} for _ in examples]

    def combine(self, pictures: Sequence[Wanted], seen: Mapping[str, Sequence[Judgement]]) -> list[Judgement]:
        """``seen``: judge -> what it saw in each picture."""
        combined = []
        for place, picture in enumerate(pictures):
            measured: dict[str, list[float]] = defaultdict(list)
            for of_judge in seen.values():
                for metric in ratio_names([of_judge[place]]):
                    measured[metric.partition("[")[0]].append(float(of_judge[place][RATIO + metric][0]))
            combined.append(ratios(self.benchmark.combine(picture.example, measured)))
        return combined


def _protocol(model: Any) -> str:
    return str(getattr(model, "protocol", model.name))


def _safe(name: str) -> str:
    """The name as part of a path; a digest stands for what a path cannot hold."""
    if all(c.isalnum() or c in "-_." for c in name) and not name.startswith("."):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:12]
