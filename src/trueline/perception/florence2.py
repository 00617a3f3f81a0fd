"""Florence-2 (Xiao et al., 2023) as tagger, detector and captioner: one net that answers tasks in words and places.

Its answers are text, "car<loc_52><loc_332><loc_932><loc_774>": places are thousandths of the picture. ``located``
reads them, whatever was written.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from PIL.Image import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from trueline.boxes import Corners
from trueline.english.naming import Noun, how_named, words_of
from trueline.models.pretrained import Checkpoint, Dtype, rgb, same_length
from trueline.perception import Detection
from trueline.perception.grounding_dino import caption as listed
from trueline.perception.grounding_dino import label_of

BATCH = 4
BINS = 1000  #: places along each side
_PIECE = re.compile(r"<loc_(\d{1,9})>|<(/?[A-Za-z_]+)>|([^<]+|<)")
_MARK = re.compile(r"<[^<>]*>")

Task = Literal["open-vocabulary", "grounding", "od"]
#: Which picture, what it is asked, the labels that the answer is about.
Question = tuple[int, str, Sequence[str]]


class Florence2:
    """``Florence2ForConditionalGeneration`` (florence-community/Florence-2-base, -large, -base-ft, -large-ft).

    The net gives no confidence: all that it finds has score 1, in the order in which it is named. What cannot be read
    of an answer is left out, counted in ``broken`` and warned of. Boxes whose phrase is nobody's label are left out
    and counted in ``unmatched``.

    Settings:
        task: how it detects. "open-vocabulary": each label on its own, one run of the net per label. "grounding": all
            labels in one caption, in which the net finds the phrases; it takes the caption for true. "od": it names
            the kinds of things that it knows, without being asked for any; those that are labels count.
        beams, longest: of its answers, in words and places. An answer cut at ``longest`` counts as broken.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        task: Task = "open-vocabulary",
        beams: int = 3,
        longest: int = 1024,
        **files: Any,
    ):
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))} (got {task!r})")
        if beams < 1 or longest < 1:
            raise ValueError(f"beams and longest must be at least 1 (got {beams} and {longest})")
        source = Checkpoint(checkpoint, **files)
        source.check_kind("Florence-2", "florence2")
        self.model = source.model(Florence2ForConditionalGeneration, device, dtype)
        self.processor = self._processor(source)
        self.places = self.model.config.text_config.max_position_embeddings
        self.task, self.beams, self.longest = task, beams, min(longest, self.places)
        self.broken = 0  #: pieces of answers so far that could not be read
        self.unmatched = 0  #: boxes so far whose phrase was nobody's label
        self.name = "florence2" if task == "open-vocabulary" else f"florence2-{task}"
        self.protocol = f"{source.title}, {task}, {beams} beams"

    def _processor(self, source: Checkpoint) -> Any:
        pictures, tokenizer = source.image_processor("CLIPImageProcessor"), source.tokenizer()
        image = getattr(tokenizer, "image_token_id", None)
        if image is None or image != self.model.config.image_token_id:
            raise ValueError(
                f"the tokenizer of {source.name} has no <image> token like its net's; give a checkpoint of "
                "florence-community/Florence-2-base or the like"
            )
        size = pictures.crop_size if pictures.do_center_crop else pictures.size
        pictures.image_seq_length = self._tokens(int(size["height"]), int(size["width"]))
        return Florence2Processor(pictures, tokenizer)

    def _tokens(self, *sides: int) -> int:
        """How many tokens a picture becomes: its last grid, and one for all of it."""
        vision = self.model.config.vision_config
        for kernel, stride, pad in zip(
            vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True
        ):
            sides = tuple((side + 2 * pad - kernel) // stride + 1 for side in sides)
        return sides[0] * sides[1] + 1

    # Perception

    def caption(self, images: Sequence[Image]) -> list[str]:
        answers, cut = self._answers(images, [(i, "<CAPTION>", ()) for i in range(len(images))])
        self._lost(cut, 3)
        return [" ".join(_MARK.sub(" ", text).split()) for text in answers]

    def tag(self, images: Sequence[Image], prompts: Sequence[str]) -> list[list[str]]:
        """What it names of itself in each picture; ``prompts`` are not read."""
        same_length(images, prompts)
        found = self._located(images, [(i, "<OD>", ()) for i in range(len(images))])
        return [list(dict.fromkeys(phrase.lower() for phrase, _ in row if phrase)) for row in found]

    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        same_length(images, labels)
        questions = [question for i, names in enumerate(labels) for question in self._questions(i, names)]
        found: list[list[Detection]] = [[] for _ in images]
        for (i, _, names), row in zip(questions, self._located(images, questions), strict=True):
            for phrase, box in row:
                label = self._label(phrase, names)
                if label is None:
                    self.unmatched += 1
                elif (detection := Detection(label, box)) not in found[i]:
                    found[i].append(detection)
        return found

    def _questions(self, image: int, labels: Sequence[str]) -> list[Question]:
        asked = {label: words for label in labels if (words := " ".join(_MARK.sub(" ", label).split()))}
        if not asked:
            return []
        if self.task == "open-vocabulary":
            return [(image, f"<OPEN_VOCABULARY_DETECTION>{words}", [label]) for label, words in asked.items()]
        if self.task == "grounding":
            return [(image, f"<CAPTION_TO_PHRASE_GROUNDING>{listed(list(asked.values()))}", list(asked))]
        return [(image, "<OD>", list(asked))]

    def _label(self, phrase: str, labels: Sequence[str]) -> str | None:
        if not phrase and len(labels) == 1 and self.task == "open-vocabulary":
            return labels[0]
        return kind_of(phrase, labels) if self.task == "od" else label_of(phrase, labels)

    # Asking

    def _located(
        self, images: Sequence[Image], questions: Sequence[Question]
    ) -> list[list[tuple[str, Corners]]]:
        answers, cut = self._answers(images, questions)
        read = [located(text) for text in answers]
        self._lost(cut + sum(broken for _, broken in read), 4)
        return [boxes for boxes, _ in read]

    def _lost(self, pieces: int, level: int) -> None:
        """Count them and warn, as of the caller ``level`` calls up."""
        if pieces:
            self.broken += pieces
            warnings.warn(
                f"{pieces} pieces of Florence-2's answers are cut or cannot be read; they are left out",
                stacklevel=level,
            )

    @torch.inference_mode()
    def _answers(self, images: Sequence[Image], questions: Sequence[Question]) -> tuple[list[str], int]:
        """What it writes, with all its marks; and how many answers were cut."""
        texts: list[str] = []
        cut = 0
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            pictures, asked = rgb([images[i] for i, _, _ in part]), [text for _, text, _ in part]
            inputs = self.processor(images=pictures, text=asked, padding=True, return_tensors="pt")
            if (length := inputs.input_ids.shape[1]) > self.places:
                raise ValueError(
                    f"the labels of one picture make {length} tokens with the picture's own, but Florence-2 reads "
                    f"{self.places}; ask for fewer or shorter ones"
                )
            inputs = inputs.to(self.model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            ids = self.model.generate(
                **inputs, num_beams=self.beams, do_sample=False, max_new_tokens=self.longest
            )
            # Checkpoints force an end at the last place, so that a full answer is a cut one.
            full = (ids[:, 1:] != self.processor.tokenizer.pad_token_id).sum(1) >= self.longest
            cut += int(full.sum())
            texts += self.processor.batch_decode(ids, skip_special_tokens=False)
        return texts, cut


# Reading the answers


def located(text: str) -> tuple[list[tuple[str, Corners]], int]:
    """Phrases with their boxes, xyxy in 0..1, in the text's order; and how many pieces of it could not be read.

    A phrase may have several boxes, four places each, or polygons (``<poly>``, its parts between ``<sep>``), of which
    the box around is taken; places before any phrase have the phrase "". Broken pieces are places that make no four,
    or are not below 1000; boxes without an area; a phrase without places.
    """
    reader = _AnswerParser()
    for place, mark, words in _PIECE.findall(text):
        if place:
            reader.places.append(int(place))
        elif mark:
            reader.mark(mark)
        elif words.strip():
            reader.begin(words.strip())
    reader.end()
    return reader.found, reader.broken


class _AnswerParser:
    """Boxes of an answer, piece by piece."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Corners]] = []
        self.broken = 0
        self.places: list[int] = []  # since the last box was closed
        self.points: list[int] = []  # of the polygon's parts before
        self.phrase, self.placed, self.polygon = "", True, False

    def begin(self, phrase: str) -> None:
        self.end()
        self.phrase, self.placed = phrase, False

    def mark(self, name: str) -> None:
        if name == "sep" and self.polygon:
            self._part()
        elif name == "poly":
            self._close()
            self.polygon = True
        else:  # "</poly>", and what only parts or ends
            self._close()

    def end(self) -> None:
        self._close()
        self.broken += not self.placed
        self.placed = True

    def _close(self) -> None:
        if self.polygon:
            self._part()
            if self.points:
                xs, ys = self.points[::2], self.points[1::2]
                self._add(min(xs), min(ys), max(xs), max(ys))
            self.points, self.polygon = [], False
        elif self.places:
            whole = len(self.places) // 4 * 4
            self.broken += whole < len(self.places)
            for start in range(0, whole, 4):
                self._add(*self.places[start : start + 4])
            self.places, self.placed = [], True

    def _part(self) -> None:
        """Close a part of a polygon: pairs of places."""
        self.placed = self.placed or bool(self.places)
        self.broken += len(self.places) % 2
        self.points += self.places[: len(self.places) // 2 * 2]
        self.places = []

    def _add(self, x0: int, y0: int, x1: int, y1: int) -> None:
        if x0 < x1 < BINS and y0 < y1 < BINS:
            left, top, right, bottom = ((bin + 0.5) / BINS for bin in (x0, y0, x1, y1))  # its middle
            self.found.append((self.phrase, (left, top, right, bottom)))
        else:
            self.broken += 1


def kind_of(name: str, labels: Sequence[str]) -> str | None:
    """The label that a thing called ``name`` is: "red apple" for "apple", "person" for "man"; None where none or
    several are."""
    words = words_of(name)
    for way in ("named", "sort"):
        fitting = [
            label
            for label in dict.fromkeys(labels)
            if words and words_of(label) and how_named(words, Noun(label, words_of(label))) == way
        ]
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None
