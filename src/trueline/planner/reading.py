"""From a prompt to a scene: what is there, how many, and how it stands to each other.

A single pass over tokens: noun phrases and relation phrases in their order, with a few rules of attachment ("a
cat on a bed next to a dog": both; "a cat left of a dog, which is above a bird": the dog). It is a reader of
captions and of templates, not a grammar of English: what it leaves out, it says in ``PromptScene.notes``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from trueline.english import words as w
from trueline.english.noun_phrases import NounPhrase
from trueline.english.tagging import MOTION, Tagger, Token, tokens_of
from trueline.planner.pronouns import Pronouns
from trueline.planner.scene import ASIDE, Place, PromptScene, Relation, comparison, settle
from trueline.planner.things import DIRECTIONAL

_FRAME_WORDS = frozenset(
    [
        "picture",
        "photo",
        "photograph",
        "image",
        "scene",
        "frame",
        "painting",
        "shot",
        "view",
        "canvas",
        "drawing",
        "illustration",
        "page",
        "screen",
    ]
)
_FINITE = frozenset(["is", "are", "was", "were", "has", "have"])
_COMPARING = frozenset(
    ["the", "number", "amount", "count", "more", "fewer", "less", "as", "twice", "same", "equal", "an"]
)
#: "two dogs, one black and the other white"; not "on one side and on the other side".
_ONE_AND_OTHER = re.compile(
    r"(?<!on )\b(?:one|some)\b (?!side|hand|end)(?:(?! [.;!?] ).)*?\b(?:the others?|others)\b(?! side| hand| end)"
)
_PUNCTUATION = frozenset("\"'()[]{}*_-\u2013\u2014/\\`~|<>#@$%^=+\u201c\u201d\u2018\u2019\u2026\ufe0f")
#: Words of the longest relation phrase that begins with a word.
_LONGEST: dict[str, int] = {}
for _phrase in w.RELATIONS:
    _LONGEST[_phrase.split()[0]] = max(_LONGEST.get(_phrase.split()[0], 0), len(_phrase.split()))


def read(prompt: str, tagger: Tagger = "textblob") -> PromptScene:
    """What a prompt says is to be seen."""
    return _PromptReader(prompt, tokens_of(prompt, tagger)).read()


class _PromptReader(Pronouns):
    """The pass over the tokens: what a clause is about, what was named last, and what waits for a subject."""

    def __init__(self, text: str, tokens: Sequence[Token]):
        super().__init__(text, tokens)
        self.lower = " ".join(token.word for token in tokens)  # for patterns
        self.offsets: list[int] = []  # of the tokens in it
        at = 0
        for token in tokens:
            self.offsets.append(at)
            at += len(token.word) + 1
        self.starts = {offset: number for number, offset in enumerate(self.offsets)}
        self.comparisons: list[tuple[int, str, int]] = []
        self.unused: list[str] = []
        self._new_sentence()

    def _new_sentence(self) -> None:
        for _, _, _, said in self.pending:
            self.scene.notes.append(f"{said!r} was left out: nothing that stands there follows it")
        self.subject = ()
        self.last, self.how, self.pending = (), "", []
        #: The relation, what stands in it to a place without a box, and the token after that place.
        self.beyond: tuple[str, tuple[int, ...], int] | None = None
        self.around, self.blank = False, -1
        self.dressed: tuple[int, ...] = ()  # who was said to wear clothes that have no box
        self.clear()

    def read(self) -> PromptScene:
        at = 0
        while at < len(self.tokens):
            at = self._step(at)
        self._new_sentence()
        settle(self.scene, self.comparisons)
        self._finish()
        return self.scene

    # ---------------------------------------------------------------------------------------- one item

    def _step(self, at: int) -> int:
        token = self.tokens[at]
        if (after := self._comparison(at)) is not None:
            return after
        if (place := self._place(at)) is not None:
            return place
        if token.word in ("not", "never"):
            return self._negated(at + 1)
        if relation := self._relation(at):
            return self._relate(at, *relation)
        if token.kind in "DCJNR" and (found := self.mentions(at, "free")):
            group, end = found
            self._name_group(group)
            return end
        if token.kind == ".":
            self._new_sentence()
        elif token.kind in (",", "&"):
            self.joined = True
        elif token.kind == "S":
            self.which = token.word in w.WHICH
            acting = at + 1 < len(self.tokens) and self.tokens[at + 1].kind == "V"
            if acting and token.word in ("while", "when", "as") and self.subject:
                self.last, self.how = self.subject, ""  # "shouting at a dog while standing on a box"
        elif token.kind == "V":
            self._verb(token)
        elif token.kind == "O" and not self.pending:
            self._pronoun(token)
        elif token.kind == "?" and token.text not in _PUNCTUATION:
            self.unused.append(token.text)
        return at + 1

    def _negated(self, at: int) -> int:
        """ "not a dog": no thing; "not on the bed": no relation, which the notes say."""
        if found := self.phrase(at):
            return found[1]
        if not (relation := self._relation(at)):
            return at
        self._objects(relation[0], relation[1])
        said = " ".join(token.word for token in self.tokens[at : relation[1]])
        self.scene.notes.append(f"'not {said}' was left out: what is denied is not planned")
        self.clear()
        found = self.phrase(relation[1])
        return found[1] if found else relation[1]

    def _verb(self, token: Token) -> None:
        self.acted = True
        self.finite = self.finite or token.word in _FINITE or token.word.endswith("s")

    def _pronoun(self, token: Token) -> None:
        if token.word in ("it", "they", "he", "she") and (found := self.antecedent(token.word, ())):
            self.subject = self.last = found
            self.how = ""
            self.clear()
        elif token.word in ("one", "other", "others", "another"):
            self.last = self.subject = ()

    def _name_group(self, group: tuple[int, ...]) -> None:
        """Things named outside any relation phrase: a subject, or what a verb is about."""
        for kind, objects, place, said in self.pending:
            self.add_relation(kind, group, objects, place, said)
        if self.joined and group and self.dressed and self.worn(group):
            self.add_relation("wear", self.dressed, group, (None, None), "and")
            self.last, self.how = group, "wear"
            self.clear()
            return
        self.dressed = ()
        acted = self.acted and self.subject and not self.joined and not self.pending
        self.pending = []
        if not acted:
            self.subject = group or self.subject
        if group:
            self.last, self.how = group, "verb" if acted else ""
            self.around = False
        self.clear()

    def _clothes(self, at: int) -> bool:
        found = self.phrase(at)
        return found is not None and found[0].name in w.WORN

    # ---------------------------------------------------------------------------------------- relations

    def _relation(self, at: int) -> tuple[str, int] | None:
        """A relation phrase or verb that begins here, and the token after it."""
        if at >= len(self.tokens):
            return None
        longest = _LONGEST.get(self.tokens[at].word, 0)
        for length in range(longest, 0, -1):
            said = " ".join(token.word for token in self.tokens[at : at + length])
            if (kind := w.RELATIONS.get(said)) and at + length <= len(self.tokens):
                if (
                    length == 1
                    and self.tokens[at].kind not in "PRV"
                    and said not in ("by", "beside", "besides", "near")
                ):
                    continue
                return kind, at + length
        word = self.tokens[at].word
        if self.tokens[at].kind == "V":
            for kind, forms in (("hold", w.HOLD | w.EAT), ("wear", w.WEAR), ("ride", w.RIDE)):
                if word in forms:
                    particle = self.word(at + 1) in ("up", "out") and self.phrase(at + 2) is not None
                    return kind, at + 1 + particle  # "holds up a camera"
            if word in ("surrounding", "surround", "surrounds"):
                return "around", at + 1
        return None

    def _relate(self, at: int, kind: str, after: int) -> int:
        said = " ".join(token.word for token in self.tokens[at:after])
        before = self.word(at - 1)
        if kind == "without" or (before in w.MADE and said in ("of", "out of", "from", "with")):
            found = self.phrase(after)
            if found and kind != "without":
                self.unboxed.append(found[0].core)
                if self.of(found[1]) and (inner := self.phrase(found[1] + 1)):
                    return inner[1]  # "made with layers of cream"
            return found[1] if found else after
        if said == "into":
            kind = self._into(before)
        if said == "by" and before in w.PASSIVES:
            return self._passive(w.PASSIVES[before], after)
        if (
            said == "by"
            and self.tokens[at - 1].kind == "V"
            and before.endswith("ed")
            and before not in w.STAYING
        ):
            kind = "at"  # "topped by", "surprised by"
        if kind in ("hold", "wear", "ride"):
            self.acted = True
        if (frame := self._in_frame(kind, after)) is not None:
            return frame
        if kind == "on" and self.word(after) == "top":
            if self.word(after + 1) != "of":
                return self._on_top(after)
            after += 2  # "resting on top of"
        if (pronoun := self.pronoun_after(after)) is not None:
            return self.relate_to_pronoun(kind, pronoun, at, said)
        if (part := self.relate_to_part(kind, after, said)) is not None:
            return part
        objects, end = self._objects(kind, after)
        if kind == "with" and objects and self.beyond and self.beyond[2] == at:
            kind, first, _ = self.beyond  # "a train next to the road with a truck": next to the truck, too
            self.around = True
            return self.join(kind, first, objects, said, end)
        if end == after:  # nothing follows
            if self.word(after) in ("each", "one") and self.word(after + 1) in ("other", "another"):
                self._mutual(kind, said)
                return after + 2
            if (
                kind in DIRECTIONAL | {"between", "front", "behind"}
                and self.tokens[after - 1].kind == "P"
                and len(said.split()) > 1
            ):
                self.scene.notes.append(f"{said!r} was left out: nothing that it is about follows it")
            return after
        first = self.subjects(kind, objects)
        if kind in ("in", "with", "wear") and self._clothes(after):
            if self.how == "beside" and self.last and all(self.lives(i) for i in self.last):
                first = self.last  # "next to a child in a white shirt and black tie"
            self.dressed = first
        if not objects:
            self.joined = self.which = False
            self.blank = end
            self.beyond = (kind, first, end) if kind == "beside" or kind in DIRECTIONAL else None
            if kind in ASIDE and first:
                self.scene.relations.append(Relation(kind, first, (), said))
            return end
        return self.join(kind, first, objects, said, end)

    def _into(self, verb: str) -> str:
        """ "walking into a room" and "putting a cup into a box", but not "shouting into a microphone"."""
        return "in" if verb in MOTION or self.how in ("verb", "hold") else "at"

    def _passive(self, kind: str, after: int) -> int:
        """ "a cup held by a man"."""
        things = self.last
        objects, end = self._objects(kind, after)
        if things and objects:
            self.add_relation(kind, objects, things, (None, None), "by")
            self.last, self.how = objects, kind
            self.clear()
        return end

    def _mutual(self, kind: str, said: str) -> None:
        """ "a cat and a dog next to each other": each to the one before."""
        group = self.last if len(self.last) > 1 else tuple(dict.fromkeys((*self.subject, *self.last)))
        for one, two in pairwise(group):
            if kind in ("beside", "with", "at", "left", "right"):
                self.scene.relations.append(Relation("beside", (two,), (one,), said))

    def _on_top(self, at: int) -> int:
        """ "a cake with a cherry on top": on what was named before."""
        first = self.last
        base = self.antecedent("it", first)
        if first and base:
            self.add_relation("on", first, base, (None, None), "on top")
        return at + 1

    def _in_frame(self, kind: str, after: int) -> int | None:
        """ "on the left of the picture", "in the middle of the photo"."""
        found = self.phrase(after)
        if (
            found is None
            or found[0].name not in _FRAME_WORDS
            or found[0].determiner not in ("the", "this", "")
            or self.word(found[0].last + 1) == "of"
        ):
            return None
        places: dict[str, Place] = {
            "left": (-1, None), "right": (1, None), "on": (None, -1), "above": (None, -1), "below": (None, 1),
            "between": (0, 0), "front": (None, 1), "behind": (None, -1),
        }  # fmt: skip
        if kind in places:
            if kind == "on" and self.tokens[after - 1].word == "on":
                return None
            self._set_place(places[kind], 1.0, kind)
        elif kind not in ("in", "at", "with"):
            return None
        return found[1]

    # ---------------------------------------------------------------------------------------- places of the picture

    def _place(self, at: int) -> int | None:
        """Handles a place of the picture ("on the left"); the token after it, or None where there is none."""
        for length in (6, 5, 4, 3) if self.tokens[at].word in ("on", "to", "at", "in") else ():
            said = " ".join(token.word for token in self.tokens[at : at + length])
            if said not in w.PLACES or at + length > len(self.tokens):
                continue
            after = at + length
            if self.word(after) == "of":
                found = self.phrase(after + 1)
                if found is None or not (
                    found[0].kind == "frame"
                    or (found[0].kind == "surroundings" and found[0].determiner == "the")
                ):
                    return None
                after = found[1]
            elif (
                self.tokens[after : after + 1]
                and self.tokens[after].kind == "N"
                and self.word(after) != "there"
            ):
                return None  # "on the left bank"
            scale = 0.6 if said in w.BACKGROUND else 1.25 if said in w.FOREGROUND else 1.0
            self._set_place(w.PLACES[said], scale, said)
            return after
        return None

    def _set_place(self, place: Place, scale: float, said: str) -> None:
        if self.last and not (self.joined and not self.how and not self.acted and self._new_clause()):
            for i in self.last:
                self.scene.mentions[i].place = place
                self.scene.mentions[i].scale *= scale
            self.clear()
        else:
            self.pending.append(("place", (), place, said))

    def _new_clause(self) -> bool:
        """Whether a place after a comma or "and" is told of what follows: the last things have theirs already."""
        return any(self.scene.mentions[i].place != (None, None) for i in self.last)

    # ---------------------------------------------------------------------------------------- noun phrases

    def _objects(self, kind: str, at: int) -> tuple[tuple[int, ...], int]:
        """The things after a relation phrase, and the token after them; ``at`` itself where there are none."""
        start = at
        while at < len(self.tokens) and self.tokens[at].kind == "R" and self.phrase(at) is None:
            at += 1
        found = self.mentions(at, kind)
        return found if found else ((), start)

    # ---------------------------------------------------------------------------------------- comparisons

    def compares(self, at: int) -> bool:
        return at < len(self.tokens) and self._compared(at) is not None

    def leads(self, at: int) -> str:
        relation = self._relation(at)
        return relation[0] if relation else ""

    def begins_clause(self, at: int) -> bool:
        if self.word(at) in ("that", "which"):
            return True
        if not (relation := self._relation(at)) or relation[0] in ("at", "with", "without"):
            return False
        found = self.phrase(relation[1])
        return found is not None and found[0].kind not in ("surroundings", "frame", "abstract")

    def _compared(self, at: int) -> tuple[NounPhrase, str, NounPhrase] | None:
        """The noun phrases of a comparison that begins here, and its sign."""
        if (
            self.tokens[at].word not in _COMPARING
            or (found := comparison(self.lower, self.offsets[at])) is None
        ):
            return None
        nowhere = len(self.tokens)
        one = self.phrase(self.starts.get(found.first, nowhere))
        two = self.phrase(self.starts.get(found.second, nowhere))
        return (one[0], found.sign, two[0]) if one and two else None

    def _comparison(self, at: int) -> int | None:
        """Reads "more cats than dogs" and the like where one begins here; the token after it."""
        if (found := self._compared(at)) is None:
            return None
        first, second = self._numbered(found[0]), self._numbered(found[2])
        if first and second and first != second:
            self.comparisons.append((first[0], found[1], second[0]))
            if not self.how:
                self.subject = tuple(dict.fromkeys((*self.subject, *first, *second)))
            self.last = self.last or self.subject
        return found[2].last + 1

    def _numbered(self, phrase: NounPhrase) -> tuple[int, ...]:
        """The mention of that name, or a new one."""
        same = (i for i, mention in enumerate(self.scene.mentions) if mention.name == phrase.name)
        return next(((i,) for i in same), None) or self.place_phrase(phrase, "free", phrase.core)

    # ---------------------------------------------------------------------------------------- the end

    def _finish(self) -> None:
        """What the scene's notes have to say, and numbers that go with those of others."""
        scene = self.scene
        for relation in scene.relations:
            if relation.kind in ("hold", "wear", "ride"):
                owners = sum(scene.mentions[i].amount for i in relation.first)
                for i in relation.second:
                    mention = scene.mentions[i]
                    if (
                        owners > 1
                        and mention.phrase.plural
                        and not mention.exact
                        and mention.phrase.vague is None
                    ):
                        mention.amount, mention.exact = owners, True
        found = _ONE_AND_OTHER.search(self.lower)
        if found and not any("other" in mention.phrase.attributes for mention in scene.mentions):
            scene.notes.append(
                f"'{found[0]}' is not told apart: what is said of one of several and of the other is not planned"
            )
        vague = [f"{m.phrase.core} ({m.amount})" for m in scene.mentions if not m.exact]
        if vague:
            scene.notes.append(f"the number is not said, so this many were drawn: {', '.join(vague)}")
        if self.unboxed:
            names = ", ".join(dict.fromkeys(self.unboxed))
            scene.notes.append(
                f"without a box of their own (surroundings, parts, clothes or no things): {names}"
            )
        if self.unused:
            scene.notes.append(f"not read: {' '.join(dict.fromkeys(self.unused))}")
