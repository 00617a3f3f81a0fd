"""COCO 2014 captions with instance boxes, as HCMA and GLIGEN use them: a folder that the user has.

What the papers leave open is a setting here. HCMA: train2014 (82,783 pictures) split 80/20 into train and validation,
val2014 (40,504) as the test set, 30,000 of it drawn; which, and which caption of the five, is not known. GLIGEN
(``demo/dataset/cd_dataset.py``): boxes of at least 1 % of the crop, the 8 largest, one random caption, the category's
name as phrase; its set COCO2014CD is ``prompts="captions"``, COCO2014D ``prompts="categories"`` (its pseudo caption:
D as published has an empty one, which no layout has); COCO2014G needs boxes of GLIP and is not here. ReCo: pictures
centre-cropped to a square, boxes moved with it and clamped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trueline.errors import FieldError
from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Source, data_folder
from trueline.formats.coco_files import (
    BoxFilter,
    CocoFile,
    Problem,
    annotation_folder,
    centre_crop,
    hashed_id,
    kept_regions,
    ranked_by_hash,
    split_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = Source("https://cocodataset.org", "2014", "annotations CC BY 4.0, pictures under Flickr's terms")
BOXES = BoxFilter()
SPLITS = {"test": "val2014", "train": "train2014", "validation": "train2014"}


class COCO2014(Benchmark):
    """One caption of each picture, and its boxes.

    Args:
        data: holds ``coco`` or is it: ``annotations/{captions,instances}_val2014.json`` (or ``_train2014``) and the
            pictures in ``val2014`` (``train2014``), which only ``reference`` opens.
        split: "test" (val2014), "train" or "validation" (80 % and 20 % of train2014, drawn with ``seed``).
        n: pictures drawn with ``seed``; None = all. A smaller draw is the beginning of a larger one.
        captions: "random" (one of the picture's, drawn with ``seed``) or "first".
        prompts: "captions", or "categories" ("person, dog": the names of the kept boxes).
        boxes: which boxes are kept, as a ``BoxFilter`` or its settings by name.
        square: crop the centre square, of pictures and boxes.

    ``truth``: ``image_id``, ``file``, ``captions`` (all) and ``crop`` (xyxy pixels). ``dropped`` counts the boxes
    that ``boxes`` (the settings) left out by reason, ``filtered`` all of them. Ids: ``coco-000000391895``. The real
    files take about ten seconds.
    """

    name = "coco"
    needs: ClassVar[Needs] = {
        "fid, kid": ("features",),
        "cmmd, clip_score, region_clip_score": ("embedder",),
        "object_accuracy, mean_iou, ap": ("detector",),
    }

    def __init__(
        self,
        data: str | Path | None = None,
        split: str = "test",
        n: int | None = 30_000,
        seed: int = 0,
        captions: str = "random",
        prompts: str = "captions",
        boxes: BoxFilter | Mapping[str, Any] = BOXES,
        square: bool = True,
    ):
        if not isinstance(boxes, BoxFilter):
            try:
                boxes = BoxFilter(**boxes)
            except FieldError as error:
                raise FieldError(f"boxes.{error.field}", error.problem) from None
        self.split = chosen("split", [split], tuple(SPLITS))[0]
        random_caption = chosen("captions", [captions], ("random", "first")) == ("random",)
        by_category = chosen("prompts", [prompts], ("captions", "categories")) == ("categories",)
        if n is not None and n < 1:
            raise ValueError(f"n: must be at least 1, or None for all (got {n})")
        self.source = (
            f"{SOURCE}, split {split}, seed {seed}, {boxes!r}, {'centre square' if square else 'whole'}"
        )
        folder = data_folder(data, SOURCE)
        self._folder = folder / "coco" if (folder / "coco").is_dir() else folder
        self._pictures = SPLITS[split]
        folder, cure = annotation_folder(self._folder), SOURCE.cure
        captions_file = folder / f"captions_{self._pictures}.json"
        said = CocoFile.of_captions(captions_file, cure, _refuse)
        pictures = said.pictures()
        said.add_captions(pictures)
        instances_file = folder / f"instances_{self._pictures}.json"
        CocoFile.of_instances(instances_file, cure, _refuse).add_annotations(pictures)
        self.dropped: Counter[str] = Counter()
        collector = Collector(self.name)
        drawn = ranked_by_hash(split_of(pictures, split, seed), "draw", seed)[:n]
        if n is not None and len(drawn) < n:
            collector.left_out[f"pictures fewer than the {n} asked for"] += n - len(drawn)
        for image_id in drawn:
            picture = pictures[image_id]
            texts = [text.strip() for text, _ in picture.captions]
            with row_of(captions_file, f"image {image_id}", cure):
                size = picture.width, picture.height
                crop = centre_crop(*size) if square else (0, 0, *size)
                kept = kept_regions((a.box for a in picture.annotations), crop, boxes, self.dropped)
                if len(kept) < boxes.min_boxes:
                    collector.left_out[f"pictures with fewer than {boxes.min_boxes} boxes skipped"] += 1
                    continue
                place = hashed_id("caption", seed, image_id) % len(texts) if texts and random_caption else 0
                prompt = texts[place] if texts else ""
                if by_category:
                    prompt = ", ".join(dict.fromkeys(region.phrase for region in kept))
                truth = {"image_id": image_id, "file": picture.file, "captions": texts, "crop": [*crop]}
                collector.add(f"coco-{image_id:012d}", prompt, truth=truth, regions=kept)
        self.examples, self.left_out = collector.finish()

    @property
    def filtered(self) -> int:
        return self.dropped.total()

    def reference(self, example: Example) -> Image:
        """The real picture in RGB, cropped as the boxes are. Boxes count the pixels of the picture as EXIF turns it.

        Raises:
            ValueError: the picture is missing, broken, or of another size than its annotations say.
        """
        from trueline.pictures import BrokenPicture, open_picture

        path = self._folder / self._pictures / Path(example.truth["file"]).name
        try:
            picture = open_picture(path)
        except BrokenPicture as error:
            raise ValueError(f"{error.problem}; {SOURCE.cure}") from None
        crop = tuple(example.truth["crop"])
        if crop not in (centre_crop(*picture.size), (0, 0, *picture.size)):
            raise ValueError(
                f"{path}: is {picture.width} x {picture.height} pixels, its annotations say otherwise; "
                "give the picture that was annotated; one that EXIF turns counts as it is seen"
            )
        return picture.crop(crop)


def _refuse(problem: Problem) -> None:
    raise ValueError(f"{problem}; {SOURCE.cure}")
