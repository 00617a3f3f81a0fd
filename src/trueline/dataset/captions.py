"""Natural captions of several things: the world's own, or those of a file; and what each one wants."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from trueline.dataset import NATURAL, Want, Wish
from trueline.dataset.words import SIDES
from trueline.english.plurals import article
from trueline.errors import FieldError
from trueline.layout import Layout, parse_record

MAX_BYTES = 50_000_000  #: of a file of captions
WORLD_SCENES = 100_000  #: of the world's endless series, after which the search for captions ends


def natural_wishes(
    source: str, count: int, seed: int = 0, *, world: bool = False
) -> tuple[list[Wish], Counter[str]]:
    """``count`` wishes from "world" or a file, and how many captions were passed over, by reason.

    A file holds one caption a line, or JSON objects with "prompt" (and "id") a line; the first that fit are taken.
    The world's are those of its scenes for training, from scene ``seed`` x 100,000 on. ``world``: captions are read
    by the world's grammar, which knows colours and textures apart; else by the rules planner's reader of English.

    Raises:
        ValueError: a file that cannot be read, an id that stands twice, or too few captions.
    """
    passed, found, seen = Counter[str](), dict[str, Wish](), set[str]()
    if count == 0:
        return [], passed
    for name, prompt in _of_world(seed) if source == "world" else _of_file(Path(source)):
        key = name or f"{NATURAL}-{len(found):04d}"
        if prompt.casefold() in seen:
            passed["said before"] += 1
            continue
        wish = _wish(key, prompt, world or source == "world")
        if isinstance(wish, str):
            passed[wish] += 1
            continue
        if key.casefold() in found:
            raise ValueError(f"captions_from: the id {key!r} stands twice in {source}")
        seen.add(prompt.casefold())
        found[key.casefold()] = wish
        if len(found) == count:
            return list(found.values()), passed
    told = ", ".join(f"{number} {reason}" for reason, number in passed.items()) or "none was passed over"
    raise ValueError(
        f"captions: {source} has {len(found)} captions that fit, fewer than {count} ({told}); ask for fewer"
    )


def _of_world(seed: int) -> Iterator[tuple[None, str]]:
    from trueline.seeds import generator_of
    from trueline.training.data.examples import Rules
    from trueline.training.settings import Data
    from trueline.world.training_data import WorldScenes

    first = seed * WORLD_SCENES
    scenes = WorldScenes("train", first + WORLD_SCENES, Rules.of(Data(), (128, 128), 8))
    for index in range(first, first + WORLD_SCENES):
        yield None, scenes.layout(index, generator_of(seed, "caption", index)).prompt


def _of_file(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"captions_from: {path} is larger than {MAX_BYTES / 1e6:.0f} MB; cut it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"captions_from: cannot read {str(path)!r} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"captions_from: {path} is not UTF-8; convert it") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield (
                _record(line, f"{path}, line {number}")
                if line.lstrip().startswith("{")
                else (None, line.strip())
            )


def _record(line: str, where: str) -> tuple[str | None, str]:
    try:
        content = parse_record(line)
        layout = Layout(content["prompt"], id=content.get("id"))
    except FieldError as error:
        raise ValueError(f"captions_from: {where}: {error}") from None
    except (KeyError, TypeError):
        raise ValueError(
            f'captions_from: {where} is no JSON object with "prompt"; write one caption or object a line'
        ) from None
    return layout.id, " ".join(layout.prompt.split())


def _wish(key: str, prompt: str, world: bool) -> Wish | str:
    """The wish, or why there is none."""
    try:
        Layout(prompt, id=key)
    except FieldError as error:
        return f"no prompt ({error.problem})"
    wants, relation = _read_world(prompt) if world else _read_english(prompt)
    if not wants:
        return "not understood"
    things = sum(want.count or 2 for want in wants)
    if things < 2:
        return "with a single thing"
    return Wish(key, NATURAL, prompt, wants, relation)


def _read_world(prompt: str) -> tuple[tuple[Want, ...], str | None]:
    """By the world's grammar, whole prompts only."""
    from trueline.evaluation.benchmarks.worded import meaning
    from trueline.evaluation.benchmarks.world import WORDS

    said = meaning(prompt, WORDS)
    if said is None:
        return (), None
    wants = []
    for thing in said.objects:
        noun = " ".join(filter(None, (thing.colour, thing.texture, thing.name)))
        wants.append(Want(article(noun), thing.name, thing.count, thing.colour, thing.texture))
    return tuple(wants), said.relation if said.relation in SIDES else None


def _read_english(prompt: str) -> tuple[tuple[Want, ...], str | None]:
    """By the reader of the rules planner: what it would give boxes, each with its phrase as written."""
    from trueline.planner.reading import read

    scene = read(prompt)
    wants = tuple(Want(m.text, m.name, m.amount if m.exact else None) for m in scene.mentions)
    stated = [r.kind for r in scene.relations if (r.first, r.second) == ((0,), (1,))]
    return wants, stated[0] if len(stated) == 1 and stated[0] in SIDES else None
