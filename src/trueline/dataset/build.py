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
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.dataset import Wish
from trueline.dataset.agreement import PictureCheck, agree, queries
from trueline.dataset.pictures import PictureSource
from trueline.dataset.settings import DatasetSettings
from trueline.engine import Engine, Phase, carry_out
from trueline.evaluation.metrics.clip_score import clip_scores
from trueline.files import (
    MANIFEST,
    Bundle,
    Job,
    Outcome,
    RunFolder,
    json_digest,
    json_lines,
    read_json_object,
)
from trueline.layout import MAX_REGIONS, Layout, Region
from trueline.pictures import BrokenPicture

if TYPE_CHECKING:
    from trueline.perception import Detector, Embedder

SCHEMA = 1
COMMAND = "dataset build"
PROMPTS, ITEMS = "prompts.jsonl", "items.jsonl"
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
    """``trueline dataset build`` in ``out``: a run whose phases are tries, and whose units are batches.

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
        self.settings, self.wishes = settings, list(wishes)
        self.pictures, self._make_checker = pictures, make_checker
        self._checker: Checker | None = None
        self.passed, self.max_broken, self.say = passed or Counter(), max_broken, say
        self._broken: dict[str, str] = {}
        self.best: dict[str, dict[str, Any]] = {}  #: id -> what was seen in its last picture
        self.jobs: list[Job] = []  #: of the tries begun
        prompts = json_lines([wish.to_json() for wish in self.wishes])
        asked = _lasting(settings.to_json()) | {"prompts": hashlib.sha256(prompts).hexdigest()[:16]}
        self.folder = RunFolder(out, COMMAND, asked, [wish.id for wish in self.wishes])
        self.folder.write(PROMPTS, methodcaller("write", prompts))

    @property
    def digest(self) -> str:
        """Of settings and prompts: which build a decision belongs to."""
        return digest_of(read_manifest(self.folder.path / MANIFEST))

    # The tries

    def draw_and_look(self, engine: Engine, silent: bool = False) -> bool:
        """Draw and look until every prompt agrees or its tries are used up; whether the rest is for this process.

        Raises:
            ValueError: more than ``max_broken`` of the pictures cannot be used.
        """
        return carry_out(self.folder, self._phases(), engine, silent)

    def _phases(self) -> Iterator[Phase]:
        for turn in range(self.settings.tries):
            pending = [wish for wish in self.wishes if self.best.get(wish.id, {"reasons": [""]})["reasons"]]
            jobs = [
                self._job(turn, number, batch)
                for number, batch in enumerate(chunks(pending, self.settings.batch_size))
            ]
            self.jobs += jobs
            yield Phase(f"try {turn + 1}", jobs, lambda: self._do)
            for job in jobs:
                for row in self._seen(job):
                    self.best[row["id"]] = row
            done = sum(not row["reasons"] for row in self.best.values())
            self.say(f"try {turn + 1}: looked at {len(pending)}; {done} of {len(self.wishes)} agree")

    def _job(self, turn: int, number: int, batch: Sequence[Wish]) -> Job:
        """What was seen in given pictures is not taken for what is in others of their names."""
        of = _digest({"ids": [wish.id for wish in batch], "sha256": [self.pictures.given(w) for w in batch]})
        ids = tuple(wish.id for wish in batch)
        return Job(f"seen/{turn}/{number:05d}-{of[:8]}", (turn, batch), ids)

    def _do(self, job: Job) -> Outcome:
        turn, batch = job.spec
        files = Bundle()
        self.pictures.draw(turn, batch, files)
        rows = self._look(turn, batch, files)
        self._count_broken(rows)  # too many end the build at once
        about = {
            "ids": list(job.makes),
            "sha256": [self.pictures.digest(turn, wish, files) for wish in batch],
        }
        files.write_json(_file_of(job), about | {"rows": rows})
        return Outcome(files.files)

    def _seen(self, job: Job) -> list[dict[str, Any]]:
        content = read_json_object(self.folder.path / _file_of(job), "give the command again")
        self._count_broken(content["rows"])
        pairs = zip(content["rows"], content["sha256"], strict=True)
        return [row | {"sha256": found} for row, found in pairs]

    def _look(self, turn: int, batch: Sequence[Wish], files: Bundle) -> list[dict[str, Any]]:
        opened: dict[str, Any] = {}
        rows: dict[str, dict[str, Any]] = {}
        for wish in batch:
            try:
                opened[wish.id] = self.pictures.open(turn, wish, files)
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

    def _count_broken(self, rows: Sequence[dict[str, Any]]) -> None:
        self._broken |= {row["id"]: row[BROKEN] for row in rows if BROKEN in row}
        if len(self._broken) > self.max_broken * len(self.wishes):
            first = next(iter(self._broken.values()))
            raise ValueError(
                f"max_broken: {len(self._broken)} pictures of {len(self.wishes)} cannot be used, more than the "
                f"{self.max_broken:g} of them that may be broken; the first: {first}; repair them, or raise it"
            )

    # What comes out

    def write(self) -> dict[str, Any]:
        """What agrees, what does not, and the summary, which is returned."""
        items, rejected = [], []
        for wish in self.wishes:
            row = self.best[wish.id]
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
            "tries": self.settings.tries,
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
    return _digest({"schema": SCHEMA, **manifest})


def _file_of(job: Job) -> str:
    return f"{job.id}.json"


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tries may become more or fewer."""
    return {name: value for name, value in settings.items() if name != "tries"}


def _digest(content: Mapping[str, Any]) -> str:
    return json_digest(content)[:16]


def seen_of(sha256: str, regions: Sequence[Mapping[str, Any]]) -> str:
    """The hash of a picture's file and its boxes."""
    return _digest({"picture": sha256, "regions": [[each["phrase"], *each["box"]] for each in regions]})


def read_manifest(path: Path) -> dict[str, Any]:
    """``settings`` and the digest of the ``prompts`` of a build.

    Raises:
        ValueError: it is none.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(manifest["settings"])
        if manifest["command"] == COMMAND:
            return {"prompts": settings.pop("prompts"), "settings": settings}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"out: {path} is no manifest of a build of this version; choose another folder")
