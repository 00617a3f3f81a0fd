"""Picture files that are spoilt at random: each is a picture, or refused in one sentence, in bounded time and memory.

fuzz(count=500, seed=0)
"""

import random
import resource
import struct
import time
import zlib
from collections import Counter
from io import BytesIO

import numpy as np
from PIL import Image

from trueline.pictures import BrokenPicture, open_picture, picture_size

SECONDS = 10  #: for one file, on a machine that does much else
MEMORY = 600_000_000  #: bytes that one file may add: 25 million pixels with their transparency
HUGE = (0, 1, 255, 5001, 16383, 65535, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def wide_png(width: int, height: int) -> bytes:
    """A whole PNG that says it is so large, and holds a few zeros."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in parts
    )


def whole_files() -> list[bytes]:
    """Small pictures as such files are: of each format, mode and packing."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    clear = colour.copy()
    clear.putalpha(colour.getchannel("R"))
    deep = Image.fromarray(rng.integers(0, 65536, (24, 32), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 20
    frames = {"save_all": True, "append_images": [colour.rotate(90 * i) for i in (1, 2)]}
    wanted = [
        (colour, "PNG", {"exif": exif}),
        (clear, "PNG", {}),
        (deep, "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour, "PNG", frames),
        (colour, "JPEG", {"exif": exif, "comment": b"hello"}),
        (colour, "JPEG", {"progressive": True, "icc_profile": bytes(500)}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("L"), "JPEG", {}),
        (colour, "WEBP", {"exif": exif}),
        (clear, "WEBP", {"lossless": True}),
        (colour, "WEBP", frames),
    ]
    files = []
    for image, format, options in wanted:
        image.save(file := BytesIO(), format, **options)
        files.append(file.getvalue())
    return files


def spoilt(content: bytes, draw: random.Random) -> bytes:
    """Cut, with bytes changed, with another header, with huge sizes, or with parts of it twice."""
    data = bytearray(content)
    kind = draw.randrange(6)
    if kind == 0:
        return bytes(data[: draw.randrange(len(data))])
    if kind == 1:
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 2:  # the header, where sizes, modes and offsets are
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(64, len(data)))] = draw.randrange(256)
    elif kind == 3:
        _declare(data, draw)
    elif kind == 4:
        start, length, to = draw.randrange(len(data)), draw.randint(1, 400), draw.randrange(len(data))
        data[to:to] = data[start : start + length] * draw.randint(1, 200)
    else:
        start = draw.randrange(len(data))
        data[start : start + draw.randint(1, 200)] = draw.randbytes(draw.randint(0, 200))
    return bytes(_checked(data) if draw.random() < 0.7 else data)


def _declare(data: bytearray, draw: random.Random) -> None:
    """Other sizes, where each format says them."""
    sizes = draw.choice(HUGE), draw.choice(HUGE)
    if data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", *sizes)
    elif data.startswith(b"RIFF"):
        data[24:30] = b"".join(min(size, 2**24 - 1).to_bytes(3, "little") for size in sizes)
    else:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", *(min(size, 65535) for size in sizes))


def _checked(data: bytearray) -> bytearray:
    """The checksums of a PNG's parts made right, so that what is wrong is looked at."""
    place = 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4)
        place = end + 4
    return data


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Open ``count`` spoilt files; how many were pictures all the same, and how many were refused.

    Raises:
        AssertionError: another error than one sentence, or a file that took too much time or memory.
    """
    draw, files, done = random.Random(seed), whole_files(), Counter[str]()
    for content in files:
        assert open_picture(content).mode == "RGB"
    for number in range(count):
        content = spoilt(files[number % len(files)], draw)
        begun, before = time.process_time(), _most_memory()
        try:
            image = open_picture(content, name="it")
            assert image.mode == "RGB" and image.width * image.height <= 25_000_000
            assert picture_size(content) == image.size
            done["pictures"] += 1
        except BrokenPicture as error:
            assert str(error).startswith("it: ") and "\n" not in str(error) and "; " in str(error), error
            done["refused"] += 1
        took, grew = time.process_time() - begun, _most_memory() - before
        assert took < SECONDS and grew < MEMORY, f"file {number}: {took:.1f} s, {grew / 1e6:.0f} MB"
        done["longest, ms"] = max(done["longest, ms"], round(took * 1000))
        done["most, MB"] = max(done["most, MB"], round(grew / 1e6))
    return done


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
