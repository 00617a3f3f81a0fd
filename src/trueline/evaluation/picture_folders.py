"""Folders of pictures as the benchmarks' own scorers take them: a pattern says where each picture lies.

A pattern is a path below the folder with fields in braces, as ``"{index:05d}/samples/{k:05d}.png"``:

- ``index``: the number of the prompt in the benchmark's own file, from 0 (it stands in the example's id);
- ``k``: which of its pictures, from 0 (a folder that counts from 1 is read, too); ``number``: of it among all;
- ``prompt``: its words, without what no file name can hold; ``id``: the example's; ``prompt_id`` and other texts and
  numbers of the example's ``truth``.

Numbers are read with any number of digits, and PNG, JPEG and WebP whatever the ending that the pattern says. Each
benchmark says its scorer's pattern itself (``Benchmark.pictures``).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import methodcaller
from pathlib import Path, PurePosixPath
from string import Formatter

from trueline.errors import short
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.benchmarks.t2i_compbench.folder import plain_words
from trueline.files import Folder, pixel_hash, read_json_object
from trueline.pictures import open_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
METADATA = "metadata.jsonl"  #: beside GenEval's samples: the prompt's line of the benchmark's file
NUMBERS = ("index", "k", "number")
_FIELD = re.compile(r"[a-z_]+")
_WIDTH = re.compile(r"(0?\d+)?d?")


class PicturePattern:
    """
    Raises:
        ValueError: it is no pattern, or does not say which prompt a picture is of.
    """

    def __init__(self, text: str):
        self.text = text
        cure = 'write it as "{index:05d}/samples/{k:04d}.png"'
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"pattern: {short(text)} is none ({error}); {cure}") from None
        self.fields = [name for _, name, _, _ in parts if name is not None]
        odd = [name for name in self.fields if not _FIELD.fullmatch(name)]
        wide = [form for _, name, form, turn in parts if name and (turn or not _WIDTH.fullmatch(form or ""))]
        path = PurePosixPath(text)
        if odd or wide or path.is_absolute() or ".." in path.parts or path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"pattern: {short(text)} is none; {cure}, below the folder, without ..")
        if len({*self.fields}) < len(self.fields) or not {*self.fields} - {"k", "number"}:
            raise ValueError(f"pattern: {short(text)} must name its prompt once; {cure}")
        self.depth = len(path.parts)
        stem = "".join(
            re.escape(literal) + ("" if name is None else f"(?P<{name}>{_what(name)})")
            for literal, name, _, _ in parts
        )
        self._regex = re.compile(stem[: -len(re.escape(path.suffix))])

    def path(self, example: Example, place: int, k: int, number: int) -> str:
        """Of a picture, below the folder."""
        values = {**_texts(example), "index": index_of(example, place), "k": k, "number": number}
        values |= {"prompt": plain_words(example.prompt), "id": example.id}
        try:
            return self.text.format_map(values)
        except KeyError as error:
            raise ValueError(f"pattern: {self.text} has a field {error} that {example.id} lacks") from None

    def read(self, folder: Path) -> list[tuple[Path, dict[str, str]]]:
        """The pictures that lie as it says, and the fields of each."""
        found = []
        for path in sorted(folder.glob("/".join("*" * self.depth))):
            if path.suffix.lower() in SUFFIXES and path.is_file():  # a pipe would be waited for
                relative = path.relative_to(folder).with_suffix("").as_posix()
                if match := self._regex.fullmatch(relative):
                    found.append((path, match.groupdict()))
        return found


def _what(field: str) -> str:
    return r"\d+" if field in NUMBERS else ".+?"


def _texts(example: Example) -> dict[str, str | int]:
    return {name: value for name, value in example.truth.items() if isinstance(value, str | int)}


def index_of(example: Example, place: int) -> int:
    """The example's number in its own file, which its id ends with; else its place in the benchmark."""
    end = re.search(r"-(\d+)$", example.id)
    return int(end[1]) if end else place


def pattern_of(benchmark: Benchmark | type[Benchmark]) -> PicturePattern | None:
    """That of the benchmark's own scorer, if it has one."""
    return PicturePattern(benchmark.pictures) if benchmark.pictures else None


def pictures_by_example(
    folder: Path, pattern: PicturePattern, examples: Sequence[Example]
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The pictures by ``ID-COPY``, and those of prompts that ``examples`` do not have.

    Raises:
        ValueError: the folder's own ``metadata.jsonl`` names another prompt than the benchmark, or two of the
            examples have one number.
    """
    key = next(name for name in pattern.fields if name not in ("k", "number"))
    owners: dict[str, list[Example]] = defaultdict(list)
    for place, example in enumerate(examples):
        owners[_key(key, example, place)].append(example)
    if key == "index" and (twice := [each for each in owners.values() if len(each) > 1]):
        one, other, *_ = twice[0]
        raise ValueError(
            f"images: {one.id} and {other.id} have one number in their files, which {pattern.text} cannot tell "
            "apart; choose one category of the benchmark"
        )
    groups: dict[str, list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    strays: list[Path] = []
    for path, fields in pattern.read(folder):
        value = str(int(fields[key])) if key == "index" else fields[key]
        value = plain_words(value).casefold() if key == "prompt" else value
        if value in owners:
            groups[value].append((path, fields))
            _check_prompt(folder, path, owners[value][0])
        else:
            strays.append(path)
    first = min((int(fields.get("k", 0)) for group in groups.values() for _, fields in group), default=0)
    found: dict[str, list[Path]] = defaultdict(list)
    for value, group in groups.items():
        for example, k, path in _shared_out(owners[value], group, min(first, 1)):
            found[f"{example.id}-{k}"].append(path)
    return dict(found), strays


def _key(field: str, example: Example, place: int) -> str:
    if field == "index":
        return str(index_of(example, place))
    if field == "prompt":
        return plain_words(example.prompt).casefold()
    return example.id if field == "id" else str(_texts(example).get(field, ""))


def _shared_out(
    owners: Sequence[Example], group: Sequence[tuple[Path, dict[str, str]]], first: int
) -> Iterable[tuple[Example, int, Path]]:
    """Which picture of which example each is: by ``k``, or in the order of their numbers, of equal prompts the first
    part for the first."""
    if "k" in group[0][1]:
        for path, fields in group:
            yield owners[0], int(fields["k"]) - first, path
        return
    ordered = sorted(group, key=lambda one: (int(one[1].get("number", 0)), one[0]))
    each = -(-len(ordered) // len(owners))
    for turn, (path, _) in enumerate(ordered):
        yield owners[turn // each], turn % each, path


def _check_prompt(folder: Path, path: Path, example: Example) -> None:
    """That the folder around a picture is of this prompt, where it says so."""
    for parent in (path.parent, path.parent.parent):
        if folder in parent.parents and (file := parent / METADATA).is_file():
            said = read_json_object(file, "it must hold the prompt's line of the benchmark's file").get(
                "prompt"
            )
            if said != example.prompt:
                raise ValueError(
                    f"images: {file} is of the prompt {short(said)}, but that of {example.id} is "
                    f"{short(example.prompt)}; give a folder of this benchmark"
                )


def export_pictures(
    folder: Path, pattern: PicturePattern, pictures: Sequence[tuple[Example, int, int, Path]], copies: int
) -> bool:
    """Copy pictures, (example, its place, copy, file) each, to where the pattern says; with GenEval's the line of
    each prompt. False where just these lie there already, as by another process that shares the run.

    Raises:
        ValueError: the folder has other pictures; two pictures have one name; one cannot be read.
    """
    names = [
        pattern.path(example, place, copy, place * copies + copy) for example, place, copy, _ in pictures
    ]
    if twice := [name for name in {*names} if names.count(name) > 1]:
        raise ValueError(f"pattern: {pattern.text} calls several pictures {twice[0]}; name their k")
    there = (
        {path.relative_to(folder).as_posix() for path, _ in pattern.read(folder)} if folder.is_dir() else {}
    )
    if there:
        files = {name: file for name, (*_, file) in zip(names, pictures, strict=True)}
        if there == files.keys() and all(
            pixel_hash(open_picture(folder / name)) == pixel_hash(open_picture(files[name])) for name in names
        ):
            return False
        raise ValueError(f"{folder}: has pictures already; choose another folder")
    out = Folder(folder)
    for name, (example, _, _, file) in zip(names, pictures, strict=True):
        out.write_png(name, open_picture(file))
        if "/samples/" in name:
            beside = str(PurePosixPath(name).parent.parent / METADATA)
            out.write(beside, methodcaller("write", _line(example)))
    return True


def _line(example: Example) -> bytes:
    """The prompt's line of the benchmark's own file."""
    return json.dumps({**example.truth, "prompt": example.prompt}, ensure_ascii=False).encode() + b"\n"


def missing_said(
    method: str, folder: Path, missing: Sequence[str], wanted: int, strays: Sequence[Path]
) -> list[str]:
    """What the table must say of a folder that is not whole."""
    said = []
    if missing:
        said.append(
            f"images {method}: {len(missing)} of {wanted} pictures are missing in {folder}, first {missing[0]}; the "
            "row is of the others"
        )
    if strays:
        of = f"{len(strays)} pictures in {folder} are of prompts that this benchmark, as it was chosen, does not have"
        said.append(f"images {method}: {of}, first {strays[0].relative_to(folder)}; they are left out")
    return said


__all__ = ["PicturePattern", "export_pictures", "missing_said", "pattern_of", "pictures_by_example"]
