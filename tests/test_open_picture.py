"""The one opener of pictures: which files, which pixels, and one sentence for each file that is none."""

import ast
import os
import re
import resource
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from faults import often
from faults.pictures import fuzz, wide_png
from PIL import Image

from trueline.pictures import BrokenPicture, open_picture, picture_size

ROOT = Path(__file__).parents[1]
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def packed(image: Image.Image, format: str = "PNG", **options) -> bytes:
    image.save(file := BytesIO(), format, **options)
    return file.getvalue()


def pixels(content: bytes, **options) -> np.ndarray:
    return np.asarray(open_picture(content, **options))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: ``kind`` 0 grey, 2 colour; ``rows`` without their filters."""
    length = len(rows) // height
    lines = b"".join(b"\0" + rows[i * length : (i + 1) * length] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *(c for c in chunks if c[0] != b"eXIf"), (b"IDAT", zlib.compress(lines))]
    parts += [c for c in chunks if c[0] == b"eXIf"] + [(b"IEND", b"")]
    made = [len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_eight_bit_colour_is_left_alone(tmp_path):
    content = packed(Image.fromarray(COLOUR))
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, BytesIO(content), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(open_picture(source)), COLOUR)
        assert picture_size(source if isinstance(source, Path) else content) == (7, 5)
    assert np.array_equal(pixels(packed(Image.fromarray(COLOUR), "WEBP", lossless=True)), COLOUR)
    assert np.array_equal(
        pixels(packed(Image.fromarray(COLOUR), "JPEG")),
        np.asarray(Image.open(BytesIO(packed(Image.fromarray(COLOUR), "JPEG")))),
    )


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_modes_are_what_they_show(mode):
    image = Image.fromarray(COLOUR).convert(mode)
    assert np.array_equal(pixels(packed(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_scaled():
    """Today's maps of depth and of medicine: 30000 was white."""
    levels = np.array([[0, 255, 256, 30000, 65535]], dtype=">u2")
    grey = pixels(png(5, 1, 16, 0, levels.tobytes()))
    assert grey.tolist() == [[[v] * 3 for v in (0, 0, 1, 117, 255)]]
    colour = pixels(png(5, 1, 16, 2, np.repeat(levels, 3).astype(">u2").tobytes()))
    assert np.array_equal(colour, grey)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_parts_show_the_ground(format):
    image = np.dstack([COLOUR, np.full(COLOUR.shape[:2], 255, np.uint8)])
    image[0, 0] = 10, 20, 30, 0
    image[0, 1] = 0, 0, 0, 128
    content = packed(Image.fromarray(image), format, lossless=True)
    shown = pixels(content)
    assert shown[0, 0].tolist() == [255] * 3 and shown[0, 1].tolist() == [127] * 3
    assert np.array_equal(shown[1:], COLOUR[1:])
    assert pixels(content, ground=0)[0, 0].tolist() == [0] * 3


@pytest.mark.parametrize(
    ("depth", "kind", "row", "clear", "shown"),
    [
        (8, 0, b"\x07\x09", b"\0\x07", [255, 9]),
        (4, 0, b"\x12", b"\0\x01", [255, 34]),
        (1, 0, b"\x40", b"\0\0", [255, 255]),
        (16, 0, b"\x07\x01\x07\x02", b"\x07\x01", [255, 7]),
        (16, 2, b"\x07\x01" * 3 + b"\x08\x01" * 3, b"\x07\x01" * 3, [255, 8]),
    ],
)
def test_a_transparent_colour_of_any_depth(depth, kind, row, clear, shown):
    assert pixels(png(2, 1, depth, kind, row, (b"tRNS", clear)))[0, :, 0].tolist() == shown


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(format, orientation, tmp_path):
    """Each corner of a picture that is stored turned comes where EXIF says that it is seen."""
    seen = np.zeros((32, 64, 3), np.uint8)
    seen[:16, :32] = 255, 0, 0
    seen[:16, 32:] = 0, 255, 0
    seen[16:, :32] = 0, 0, 255
    seen[16:, 32:] = 255, 255, 255
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud}
    undo |= {
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    }
    undo |= {8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](seen)))
    content = packed(
        stored, format, exif=exif, **({"lossless": True} if format == "WEBP" else {"quality": 95})
    )
    found = pixels(content).astype(int)
    assert found.shape == seen.shape and np.abs(found[4::8, 4::8] - seen[4::8, 4::8]).max() <= 8
    (tmp_path / "a").write_bytes(content)
    assert picture_size(tmp_path / "a") == (64, 32)


def test_exif_behind_the_pixels_and_broken_exif():
    turned = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4)
    content = png(2, 1, 8, 0, b"\x01\x02", (b"eXIf", turned))
    assert pixels(content)[:, :, 0].tolist() == [[1], [2]] and picture_size(content) == (1, 2)
    for broken in (b"", b"MM", turned[:12], b"II" + turned[2:], bytes(40)):
        assert pixels(png(2, 1, 8, 0, b"\x01\x02", (b"eXIf", broken)))[:, :, 0].tolist() == [[1, 2]]


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert np.abs(pixels(packed(image, "JPEG"))[0, 0].astype(int) - (0, 255, 255)).max() <= 2


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_the_first_picture_of_an_animated_one(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    content = packed(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert getattr(Image.open(BytesIO(content)), "n_frames", 1) == 3
    assert pixels(content)[0, 0].tolist() == [255, 0, 0]


def test_nothing_but_the_pixels_is_kept():
    content = packed(Image.fromarray(COLOUR), "JPEG", comment=b"secret", dpi=(3, 3))
    assert open_picture(content).info == {}


def test_a_file_of_any_name_is_what_its_bytes_are(tmp_path):
    (tmp_path / "a.eps").write_bytes(packed(Image.fromarray(COLOUR)))
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.eps")), COLOUR)


GIF = packed(Image.fromarray(COLOUR), "GIF")
WHOLE = packed(Image.fromarray(COLOUR))
BAD = {
    "missing": (None, "no such file; put it there"),
    "empty": (b"", r"cannot be read \(it is empty\); get it anew"),
    "gif": (
        GIF,
        r"cannot be read \(it is no PNG, JPEG or WebP, whatever its name\); save it as one of these",
    ),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read .*; save it as one"),
    "text": (b"a cat", "cannot be read .*; save it as one"),
    "cut": (WHOLE[:60], r"cannot be read \(.*\); save it again, or get it anew"),
    "jpeg": (b"\xff\xd8\xff\xe0", r"cannot be read \(.*\); save it again"),
    "webp": (b"RIFF\0\0\0\0WEBPVP8 ", r"cannot be read \(.*\); save it again"),
    "heavy": (bytes(10_000_001), "has more than 10 MB; save it smaller"),
    "wide": (wide_png(5001, 5000), "has more than 25 million pixels; scale it down"),
    "bomb": (wide_png(2**31 - 1, 2**31 - 1), "has more than 25 million pixels; scale it down"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_picture_that_cannot_be_used_is_one_sentence(tmp_path, kind):
    content, problem = BAD[kind]
    path = tmp_path / "a.png"
    sources = [path, str(path)]
    if content is not None:
        path.write_bytes(content)
        sources += [content, BytesIO(content)]
    for source in sources:
        with pytest.raises(BrokenPicture, match=f"^mine: {problem}[^\n]*$"):
            open_picture(source, name="mine")
    with pytest.raises(BrokenPicture, match=f"^{re.escape(str(path))}: {problem}"):
        open_picture(path)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    found = []

    def read():
        for name in ("pipe.png", "", "a\0.png", "a" * 300):
            try:
                open_picture(tmp_path / name)
            except BrokenPicture as error:
                found.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert (
        not thread.is_alive()
        and len(found) == 4
        and found[0].endswith("pipe.png: is no file; give a file, PNG, JPEG or WebP")
    )


def test_a_jpeg_of_many_scans_is_refused():
    """Each scan goes over all pixels: a small file of thousands would take minutes."""
    content = packed(Image.fromarray(COLOUR), "JPEG", progressive=True)
    assert 2 < content.count(b"\xff\xda") < 20 and pixels(content).shape == (5, 7, 3)
    at = content.rindex(b"\xff\xda")
    with pytest.raises(BrokenPicture, match="is a JPEG of more than 100 scans; save it again"):
        open_picture(content[:at] + content[at:-2] * 120 + b"\xff\xd9")


def test_large_pictures_are_refused_before_they_are_unpacked(tmp_path):
    (tmp_path / "a.png").write_bytes(wide_png(13000, 13000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        for reader in (open_picture, picture_size):
            with pytest.raises(BrokenPicture, match="25 million"):
                reader(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB; it was 1.3 GB


@pytest.mark.faults
def test_mutated_pictures_are_pictures_or_one_sentence():
    count = often(40, 500)
    done = fuzz(count, seed=0)
    print(done)
    assert done["pictures"] + done["refused"] == count and done["pictures"] and done["refused"]


OPENERS = re.compile(
    r"\bImage\.open$|imread$|imdecode$|(read|load)_image$|decode_(image|png|jpeg|webp)$|default_loader$|ImageFile$"
)


def test_nobody_else_opens_pictures():
    """Neither by PIL, whose readers of other formats start programs, nor by another library."""
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "studies").rglob("*.py")]:
        calls = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))
        if any(OPENERS.search(ast.unparse(call.func)) for call in calls):
            found.add(path.relative_to(ROOT).as_posix())
    assert found == set()
