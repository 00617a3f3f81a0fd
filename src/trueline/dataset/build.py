"""Prompts to pictures to boxes to verdicts, batch by batch, in a folder that can be gone on with.

A batch always has the same members and is drawn and looked at as a whole, or not at all: so a build that was killed
ends in the same bytes. A prompt whose picture does not agree is drawn again with the next seed, ``tries`` times at
most.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.dataset import Wish
from trueline.dataset.agreement import PictureCheck, agree, queries
from trueline.dataset.pictures import PictureSource
from trueline.dataset.settings import DatasetSettings
from trueline.evaluation.metrics.clip_score import clip_scores
from trueline.files import Folder, json_digest, json_lines
from trueline.layout import MAX_REGIONS, Layout, Region
from trueline.pictures import BrokenPicture
from trueline.training.settings import check_same

if TYPE_CHECKING:
    from trueline.perception import Detector, Embedder

SCHEMA = 1
MANIFEST, PROMPTS, ITEMS = "build.json", "prompts.jsonl", "items.jsonl"
REJECTED, SUMMARY = "rejected.jsonl", "summary.json"
#: Of an item, in its meta: a hash of its picture and boxes, to which a person's decision belongs.
SEEN = "seen"
BROKEN = "broken"  #: the reason of a picture that is missing or cannot be read


@dataclass(frozen=True)
class Checker:
    """The models that check pictures: a detector and, unless None, an embedder."""

    detector: Detector
    embedder: Embedder | None
    settings: DatasetSettings

    def look(self, wishes: Sequence[Wish], images: Sequence[Any]) -> list[PictureCheck]:
        s, phrases = self.settings, self.settings.ask == "phrases"
        asked = [list(dict.fromkeys(queries(wish, phrases))) for wish in wishes]
        found = self.detector.detect(images, asked)
        cosines: list[float | None] = [None] * len(wishes)
        if self.embedder is not None:
            texts = self.embedder.texts([wish.prompt for wish in wishes])
            cosines = [round(float(c), 4) for c in clip_scores(self.embedder.images(images), texts)]
        least = s.min_score or 0.0
        return [
            agree(
                wish,
                [d for d in detections if d.score >= least],
                clip,
                phrases=phrases,
                least_clip=s.min_clip,
            )
            for wish, detections, clip in zip(wishes, found, cosines, strict=True)
        ]


class DatasetBuild:
    """``trueline dataset build`` in ``out``.

    Args:
        passed: captions that were passed over, by reason, for the summary.
        make_checker: loads the models, when there is a picture to check.
        max_broken: share of the pictures that may be missing or unreadable.

    Raises:
        ValueError: the folder holds a build with other settings or prompts, or cannot be written.
    """

    def __init__(
        self,
        out: Path,
        settings: DatasetSettings,
        wishes: Sequence[Wish],
        pictures: PictureSource,
        make_checker: Callable[[], Checker],
        passed: Counter[str] | None = None,
        max_broken: float = 0.05,
        say: Callable[[str], None] = print,
    ):
        self.folder, self.settings, self.wishes = Folder(out), settings, list(wishes)
        self.pictures, self._make_checker = pictures, make_checker
        self._checker: Checker | None = None
        self.passed, self.max_broken, self.say = passed or Counter(), max_broken, say
        self._broken: dict[str, str] = {}
        self._claim()

    @property
    def digest(self) -> str:
        """Of settings and prompts: which build a decision belongs to."""
        return digest_of(self._manifest())

    def _manifest(self) -> dict[str, Any]:
        prompts = hashlib.sha256(json_lines([wish.to_json() for wish in self.wishes])).hexdigest()[:16]
        return {"schema": SCHEMA, "settings": self.settings.to_json(), "prompts": prompts}

    def _claim(self) -> None:
        path, now = self.folder.path / MANIFEST, self._manifest()
        if path.exists():
            before = read_manifest(path)
            check_same(_lasting(before)["settings"], _lasting(now)["settings"], self.folder.path)
            check_same({"prompts": before["prompts"]}, {"prompts": now["prompts"]}, self.folder.path)
        self.folder.write_json(MANIFEST, now)
        self.folder.write(PROMPTS, lambda f: f.write(json_lines([wish.to_json() for wish in self.wishes])))

    # The rounds

    def __call__(self) -> dict[str, Any]:
        """Draw and look until every prompt agrees or its tries are used up; returns the summary.

        Raises:
            ValueError: more than ``max_broken`` of the pictures cannot be used.
        """
        best: dict[str, dict[str, Any]] = {}
        for turn in range(self.settings.tries):
            pending = [wish for wish in self.wishes if best.get(wish.id, {"reasons": [""]})["reasons"]]
            for number, batch in enumerate(chunks(pending, self.settings.batch_size)):
                for row in self._batch(turn, number, batch):
                    best[row["id"]] = row
                done = sum(not row["reasons"] for row in best.values())
                seen = min((number + 1) * self.settings.batch_size, len(pending))
                self.say(
                    f"try {turn + 1}: looked at {seen} of {len(pending)}; {done} of {len(self.wishes)} agree"
                )
        return self._write(best)

    def _batch(self, turn: int, number: int, batch: Sequence[Wish]) -> list[dict[str, Any]]:
        home = Folder(self.folder.path / "seen" / str(turn))
        name = f"{number:05d}.json"
        self.pictures.ready(turn, batch)
        about = {"ids": [wish.id for wish in batch], "sha256": [self.pictures.digest(turn, w) for w in batch]}
        rows = _stored(home.path / name, about)
        if rows is None:
            rows = self._look(turn, batch)
            home.write_json(name, about | {"rows": rows})
        for row in rows:
            if BROKEN in row:
                self._note_broken(row)
        return [row | {"sha256": found} for row, found in zip(rows, about["sha256"], strict=True)]

    def _look(self, turn: int, batch: Sequence[Wish]) -> list[dict[str, Any]]:
        opened: dict[str, Any] = {}
        rows: dict[str, dict[str, Any]] = {}
        for wish in batch:
            try:
                opened[wish.id] = self.pictures.open(turn, wish)
            except BrokenPicture as error:
                why = str(error)
                rows[wish.id] = {"id": wish.id, "try": turn, BROKEN: why, "reasons": [f"{BROKEN}: {why}"]}
        whole = [wish for wish in batch if wish.id in opened]
        if whole:
            if self._checker is None:
                self._checker = self._make_checker()
            verdicts = self._checker.look(whole, [opened[wish.id] for wish in whole])
            for wish, verdict in zip(whole, verdicts, strict=True):
                rows[wish.id] = self._row(turn, wish, verdict)
        return [rows[wish.id] for wish in batch]

    def _row(self, turn: int, wish: Wish, verdict: PictureCheck) -> dict[str, Any]:
        reasons = list(verdict.reasons)
        if len(verdict.regions) > MAX_REGIONS:
            reasons.append(f"count: more than {MAX_REGIONS} boxes")
        boxes = [region.model_dump(mode="json", exclude_defaults=True) for region in verdict.regions]
        return {
            "id": wish.id,
            "try": turn,
            "image": self.pictures.name(turn, wish),
            "regions": boxes,
            "scores": list(verdict.scores),
            "clip": verdict.clip,
            "reasons": reasons,
        }

    def _note_broken(self, row: dict[str, Any]) -> None:
        self._broken[row["id"]] = row[BROKEN]
        if len(self._broken) > self.max_broken * len(self.wishes):
            first = next(iter(self._broken.values()))
            raise ValueError(
                f"max_broken: {len(self._broken)} pictures of {len(self.wishes)} cannot be used, more than the "
                f"{self.max_broken:g} of them that may be broken; the first: {first}; repair them, or raise it"
            )

    # What comes out

    def _write(self, best: dict[str, dict[str, Any]]) -> dict[str, Any]:
        items, rejected = [], []
        for wish in self.wishes:
            row = best[wish.id]
            if row["reasons"]:
                first = row["reasons"][0].partition(":")[0]
                about = {"id": wish.id, "category": wish.category, "prompt": wish.prompt, "reason": first}
                rejected.append(about | {"reasons": row["reasons"], "tries": row["try"] + 1})
            else:
                items.append(self._item(wish, row))
        self.folder.write(ITEMS, lambda f: f.write(json_lines(items)))
        self.folder.write(REJECTED, lambda f: f.write(json_lines(rejected)))
        summary = {
            "asked": dict(Counter(wish.category for wish in self.wishes)),
            "agreed": dict(Counter(item["meta"]["category"] for item in items)),
            "rejected": dict(Counter(each["reason"] for each in rejected)),
            "captions passed over": dict(self.passed),
        }
        self.folder.write_json(SUMMARY, summary)
        return summary

    def _item(self, wish: Wish, row: dict[str, Any]) -> dict[str, Any]:
        meta = {"category": wish.category, "try": row["try"], "clip": row["clip"], "scores": row["scores"]}
        meta[SEEN] = seen_of(row["sha256"], row["regions"])
        layout = Layout(wish.prompt, [Region(**each) for each in row["regions"]], id=wish.id, meta=meta)
        return layout.to_record() | {"image": row["image"]}


def chunks(wishes: Sequence[Wish], size: int) -> Iterator[Sequence[Wish]]:
    return (wishes[start : start + size] for start in range(0, len(wishes), size))


def digest_of(manifest: Mapping[str, Any]) -> str:
    return _digest(_lasting(manifest))


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in manifest["settings"].items() if name != "tries"}
    return {**manifest, "settings": settings}


def _digest(content: Mapping[str, Any]) -> str:
    return json_digest(content)[:16]


def seen_of(sha256: str, regions: Sequence[Mapping[str, Any]]) -> str:
    """The hash of a picture's file and its boxes."""
    return _digest({"picture": sha256, "regions": [[each["phrase"], *each["box"]] for each in regions]})


def read_manifest(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: it is none.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] == SCHEMA and isinstance(manifest["settings"], dict) and manifest["prompts"]:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"out: {path} is no manifest of a build of this version; choose another folder")


def _stored(path: Path, about: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What was seen in just these pictures; None if there is nothing of the kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["rows"] if {key: content[key] for key in about} == about else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
