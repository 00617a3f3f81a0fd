"""YOLO: one text file per picture, one line per box: ``class cx cy width height`` in 0..1, and a file of class names.

The labels are in the folder or its ``labels``; the names in ``data.yaml`` or ``classes.txt`` there, or in a file that
is named. A line with more numbers is an outline (``class x0 y0 x1 y1 x2 y2 ...``), and becomes a mask.

The picture of ``labels/a.txt`` is ``images/a`` with the ending of a picture, else beside it. Boxes are parts of the
picture as it is seen, turned as EXIF says, for so Ultralytics opens it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from trueline.formats import _masks
from trueline.formats._build import check_fraction, cut_box, make_layout, make_region
from trueline.formats._conversion import IMAGE, PICTURE, Options
from trueline.formats._input import MAX_VALUE, mismatch, read_text
from trueline.formats._names import FORM as NAMES
from trueline.formats._names import classes_of, read_names
from trueline.formats._output import DECIMALS, DEFAULT, file_names, save_folder
from trueline.layout import Layout, Region

FORM = "a folder of .txt files with lines of class cx cy width height"
NAME_FILES = ("data.yaml", "data.yml", "classes.txt")
FIELDS = ("cx", "cy", "width", "height")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG", ".WEBP")


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    names = read_names(options.names or _names_beside(path))
    for file in _label_files(path, options):
        lines = enumerate(read_text(file, options).split("\n"), start=1)
        regions = [_region(line, f"{file}, line {i}", names, options) for i, line in lines if line.strip()]
        found = _picture_of(file, path, options)
        meta = {PICTURE: {IMAGE: str(found)}} if found else {}
        yield make_layout(None, regions, str(file), options.tally, id=file.stem, meta=meta)


def _picture_of(file: Path, path: Path, options: Options) -> Path | None:
    """The picture that a file of labels is about."""
    parts = list(file.parts)
    if "labels" in parts[:-1]:  # the last folder of that name, as Ultralytics does
        parts[len(parts) - 2 - parts[-2::-1].index("labels")] = "images"
    places = [Path(*parts), file]
    if options.pictures:
        top = path if path.is_dir() else path.parent
        root = top / "labels" if (top / "labels").is_dir() else top
        places = [options.pictures / file.relative_to(root)]
    found = (place.with_suffix(suffix) for place in places for suffix in SUFFIXES)
    return next((place for place in found if place.is_file()), None)


def _label_files(path: Path, options: Options) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = path / "labels" if (path / "labels").is_dir() else path
    files = [file for file in sorted(folder.rglob("*.txt")) if file.name not in NAME_FILES]
    if not files:
        raise mismatch(path, options, f"no .txt file in {folder}")
    return files


def _names_beside(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    for name in NAME_FILES:
        for place in (folder, folder / "labels"):
            if (place / name).is_file():
                return place / name
    raise ValueError(f"names: {folder} has none of {', '.join(NAME_FILES)}; name {NAMES}")


def _region(line: str, where: str, names: Sequence[str], options: Options) -> Region | None:
    name, values = _parsed(line, where, names, options)
    mask, tally = None, options.tally
    if len(values) == 5:  # a detection
        tally.lose("confidences", where)
    if len(values) in (4, 5):
        for field, value in zip(FIELDS, values[:4], strict=True):
            check_fraction(value, field, where)
        cx, cy, width, height = values[:4]
        corners = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    else:
        for place, value in enumerate(values):
            check_fraction(value, f"{'xy'[place % 2]}{place // 2}", where)
        corners = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        scaled = [value * DEFAULT[place % 2] for place, value in enumerate(values)]
        mask = _masks.from_polygons([scaled], DEFAULT, where)
        tally.note(f"outlines drawn as masks of {DEFAULT[0]}x{DEFAULT[1]}", where)
        if mask is None:
            tally.lose(_masks.EMPTY, where)
    box = cut_box(corners, where, tally)
    return make_region(name, box, where, tally, mask)


def _parsed(line: str, where: str, names: Sequence[str], options: Options) -> tuple[str, list[float]]:
    """The class's name, and the numbers after it."""
    parts = line.split()
    try:
        values = [float(part) for part in parts[1:]]
        number = int(parts[0])
    except ValueError:
        values, number = [], -1
    outline = len(values) >= 6 and len(values) % 2 == 0
    if number < 0 or not (len(values) in (4, 5) or outline) or not all(abs(v) < MAX_VALUE for v in values):
        raise ValueError(f"{where}: found {line.strip()[:60]!r}; {options.cure}")
    if number >= len(names):
        raise ValueError(f"{where}: class {number} has no name, there are {len(names)}; give the right names")
    return names[number], values


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    import yaml

    names, classes = classes_of(layouts, options.names, options.tally)
    # Unicode has line breaks that YAML folds into spaces (U+0085); such names are escaped.
    unbroken = all(name.splitlines() in ([], [name]) for name in names)
    table = yaml.safe_dump({"names": dict(enumerate(names))}, allow_unicode=unbroken, sort_keys=False)
    files = {"data.yaml": table.encode()}
    for name, layout, chosen in zip(file_names(layouts), layouts, classes, strict=True):
        classed = zip(layout.regions, chosen, strict=True)
        lines = [_line(region, number) for region, number in classed if number is not None]
        files[f"labels/{name}.txt"] = "".join(lines).encode()
    save_folder(path, files, options)


def _line(region: Region, number: int) -> str:
    box = region.box
    values = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.width, box.height)
    return " ".join([str(number), *(f"{value:.{DECIMALS}f}" for value in values)]) + "\n"
