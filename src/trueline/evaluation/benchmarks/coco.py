"""COCO 2014 captions with instance boxes, as HCMA and GLIGEN use them: a folder that the user has.

What the papers leave open is a setting here. HCMA: train2014 (82,783 pictures) split 80/20 into train and validation,
val2014 (40,504) as the test set, 30,000 of it drawn; which, and which caption of the five, is not known. GLIGEN
(``demo/dataset/cd_dataset.py``): boxes of at least 1 % of the crop, the 8 largest, one random caption, the category's
name as phrase; its set COCO2014CD is ``prompts="captions"``, COCO2014D ``prompts="categories"`` (its pseudo caption:
D as published has an empty one, which no layout has); COCO2014G needs boxes of GLIP and is not here. ReCo: pictures
centre-cropped to a square, boxes moved with it and clamped.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trueline.boxes import MIN_AREA
from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Source, data_folder
from trueline.files import read_json_object
from trueline.layout import MAX_REGIONS, Region

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = Source("https://cocodataset.org", "2014", "annotations CC BY 4.0, pictures under Flickr's terms")
SPLITS = {"test": "val2014", "train": "train2014", "validation": "train2014"}
TRAIN_SHARE = 0.8
Crop = tuple[int, int, int, int]  #: xyxy pixels
BESIDE, CROWD, SMALL, MANY = "beside the crop", "that mark a crowd", "below min_area", "over max_boxes"


@dataclass(frozen=True)
class BoxFilter:
    """Which boxes of a picture to keep. ``min_area``: of the (cropped) picture, after clipping; ``max_boxes``: the
    largest are kept; ``min_boxes``: pictures with fewer kept boxes are left out; ``crowd``: keep regions that COCO
    marks as crowds."""

    min_area: float = 0.01
    max_boxes: int = 8
    min_boxes: int = 0
    crowd: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_area < 1:
            raise ValueError(
                f"min_area: must be from 0 to below 1, a share of the picture (got {self.min_area})"
            )
        if not 0 <= self.min_boxes <= self.max_boxes <= MAX_REGIONS:
            given = f"{self.min_boxes} and {self.max_boxes}"
            raise ValueError(f"min_boxes, max_boxes: must be 0 <= min <= max <= {MAX_REGIONS} (got {given})")


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
        boxes: BoxFilter | Mapping[str, Any] = BoxFilter(),
        square: bool = True,
    ):
        if not isinstance(boxes, BoxFilter):
            boxes = _box_filter(boxes)
        self.split = chosen("split", [split], tuple(SPLITS))[0]
        random_caption = chosen("captions", [captions], ("random", "first")) == ("random",)
        by_category = chosen("prompts", [prompts], ("captions", "categories")) == ("categories",)
        if n is not None and n < 1:
            raise ValueError(f"n: must be at least 1, or None for all (got {n})")
        self.source = (
            f"{SOURCE}, split {split}, seed {seed}, {boxes}, {'centre square' if square else 'whole'}"
        )
        self._folder = _coco_folder(data)
        self._pictures = SPLITS[split]
        captions_file, instances_file = (
            _annotations(self._folder) / f"{kind}_{self._pictures}.json" for kind in ("captions", "instances")
        )
        images, texts = _captions(captions_file)
        things = _instances(instances_file, images)
        self.dropped: Counter[str] = Counter()
        collector = Collector(self.name)
        drawn = draw(split_of(images, split, seed), n, seed)
        if n is not None and len(drawn) < n:
            collector.left_out[f"pictures fewer than the {n} asked for"] += n - len(drawn)
        for image_id in drawn:
            image, said = images[image_id], texts.get(image_id, [])
            with row_of(captions_file, f"image {image_id}", SOURCE.cure):
                crop = centre_square(image["width"], image["height"]) if square else _whole(image)
                kept = keep(things.get(image_id, []), crop, boxes, self.dropped)
                if len(kept) < boxes.min_boxes:
                    collector.left_out[f"pictures with fewer than {boxes.min_boxes} boxes skipped"] += 1
                    continue
                place = _number("caption", seed, image_id) % len(said) if said and random_caption else 0
                caption = said[place] if said else ""
                prompt = (
                    ", ".join(dict.fromkeys(region.phrase for region in kept)) if by_category else caption
                )
                truth = {
                    "image_id": image_id,
                    "file": image["file_name"],
                    "captions": said,
                    "crop": list(crop),
                }
                collector.add(f"coco-{image_id:012d}", prompt, truth=truth, regions=kept)
        self.examples, self.left_out = collector.finish()

    @property
    def filtered(self) -> int:
        return self.dropped.total()

    def reference(self, example: Example) -> Image:
        """The real picture in RGB, cropped as the boxes are.

        Raises:
            ValueError: the picture is missing or broken.
        """
        from trueline.pictures import BrokenPicture, open_picture

        path = self._folder / self._pictures / Path(example.truth["file"]).name
        try:
            return open_picture(path).crop(tuple(example.truth["crop"]))
        except BrokenPicture as error:
            raise ValueError(f"{error}; {SOURCE.cure}") from None


def _box_filter(settings: Mapping[str, Any]) -> BoxFilter:
    known = [field.name for field in fields(BoxFilter)]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"boxes: no setting {unknown[0]!r}; there are {', '.join(known)}")
    return BoxFilter(**settings)


def split_of(ids: Iterable[int], split: str, seed: int) -> list[int]:
    """The ids of a split: all for "test", else 80 % ("train", rounded down) or the rest ("validation")."""
    ranked = sorted(ids, key=lambda id: (_number("split", seed, id), id))
    cut = int(len(ranked) * TRAIN_SHARE)
    return {"test": ranked, "train": ranked[:cut], "validation": ranked[cut:]}[split]


def draw(ids: Iterable[int], n: int | None, seed: int) -> list[int]:
    """``n`` of the ids (None: all) in random order; each draw begins with the smaller ones of the same seed."""
    return sorted(ids, key=lambda id: (_number("draw", seed, id), id))[:n]


def centre_square(width: int, height: int) -> Crop:
    """The largest square in the middle, in whole pixels."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def keep(
    things: Sequence[Mapping[str, Any]], crop: Crop, boxes: BoxFilter, dropped: Counter[str] | None = None
) -> list[Region]:
    """Regions of COCO's annotations (``name``, ``bbox`` xywh in pixels, ``iscrowd``, perhaps ``label``), largest
    first: moved and clamped to ``crop``, then filtered. ``dropped`` counts the others by reason."""
    left, top, right, bottom = crop
    width, height = right - left, bottom - top
    kept, others = [], Counter[str]()
    for thing in things:
        x, y, w, h = thing["bbox"]
        box = (
            min(max((x - left) / width, 0.0), 1.0),
            min(max((y - top) / height, 0.0), 1.0),
            min(max((x + w - left) / width, 0.0), 1.0),
            min(max((y + h - top) / height, 0.0), 1.0),
        )
        area = (box[2] - box[0]) * (box[3] - box[1])
        if area <= 0:
            others[BESIDE] += 1
        elif thing["iscrowd"] and not boxes.crowd:
            others[CROWD] += 1
        elif area < max(boxes.min_area, MIN_AREA):
            others[SMALL] += 1
        else:
            kept.append((area, Region(thing["name"], box, label=thing.get("label"))))
    kept.sort(key=lambda item: -item[0])  # stable: equal areas stay in the file's order
    others[MANY] += max(len(kept) - boxes.max_boxes, 0)
    if dropped is not None:
        dropped.update(+others)
    return [region for _, region in kept[: boxes.max_boxes]]


def _number(salt: str, seed: int, id: int) -> int:
    """A number in 0..2^64 that depends on nothing but its arguments, in every version of every library."""
    return int.from_bytes(hashlib.blake2b(f"{salt} {seed} {id}".encode(), digest_size=8).digest())


def _whole(image: Mapping[str, Any]) -> Crop:
    return 0, 0, image["width"], image["height"]


def _coco_folder(data: str | Path | None) -> Path:
    folder = data_folder(data, SOURCE)
    return folder / "coco" if (folder / "coco").is_dir() else folder


def _annotations(folder: Path) -> Path:
    return folder / "annotations" if (folder / "annotations").is_dir() else folder


def _captions(path: Path) -> tuple[dict[int, dict[str, Any]], dict[int, list[str]]]:
    """Images by id, and their captions in the file's order."""
    content = read_json_object(path, SOURCE.cure)
    images, texts = {}, defaultdict(list)
    for place, row in enumerate(_list(path, content, "images")):
        with row_of(path, f"images[{place}]", SOURCE.cure):
            for key, kind in (("id", int), ("width", int), ("height", int), ("file_name", str)):
                if not isinstance(row[key], kind) or (kind is int and row[key] < 1):
                    raise ValueError(f"{key} must be {'text' if kind is str else 'a positive whole number'}")
            images[row["id"]] = row
    for place, row in enumerate(_list(path, content, "annotations")):
        with row_of(path, f"annotations[{place}]", SOURCE.cure):
            if row["image_id"] not in images or not isinstance(row["caption"], str):
                raise ValueError("needs the image_id of one of the images, and a caption")
            texts[row["image_id"]].append(row["caption"].strip())
    return images, dict(texts)


def _instances(path: Path, images: Mapping[int, Any]) -> dict[int, list[dict[str, Any]]]:
    """Name, bbox and iscrowd of each thing, by image."""
    content = read_json_object(path, SOURCE.cure)
    things = defaultdict(list)
    with row_of(path, "categories", SOURCE.cure):
        names = {row["id"]: row["name"] for row in _list(path, content, "categories")}
    for place, row in enumerate(_list(path, content, "annotations")):
        with row_of(path, f"annotations[{place}]", SOURCE.cure):
            if row["image_id"] not in images or row["category_id"] not in names:
                raise ValueError("needs the image_id of one of the images, and the id of a category")
            if len(row["bbox"]) != 4 or not all(
                isinstance(v, int | float) and abs(v) < 1e6 for v in row["bbox"]
            ):
                raise ValueError(f"bbox must be x, y, width and height in pixels (got {row['bbox']!r:.60})")
            thing = {"name": names[row["category_id"]], "bbox": row["bbox"], "iscrowd": bool(row["iscrowd"])}
            things[row["image_id"]].append(thing)
    return dict(things)


def _list(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: {key} must be a list of objects; {SOURCE.cure}")
    return rows
