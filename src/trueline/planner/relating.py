"""Relation phrases: which words say a relation, and between which things it then is."""

from collections.abc import Sequence
from itertools import pairwise

from trueline.english import words as w
from trueline.english.tagging import Token
from trueline.english.word_classes import MOTION
from trueline.planner.pronouns import Pronouns
from trueline.planner.scene import ASIDE, Place, Relation
from trueline.planner.things import DIRECTIONAL

#: Words of the longest relation phrase that begins with a word.
_LONGEST = {p.split()[0]: p.count(" ") + 1 for p in sorted(w.RELATIONS, key=lambda p: p.count(" "))}
#: "on the left of the picture": relations to the picture itself, as its places.
_SIDES: dict[str, Place] = {
    **{"left": (-1, None), "right": (1, None), "between": (0, 0), "front": (None, 1)},
    **{"on": (None, -1), "above": (None, -1), "behind": (None, -1), "below": (None, 1)},
}


class Relating(Pronouns):
    """Relation phrases, places of the picture, and the things that they are about."""

    def __init__(self, text: str, tokens: Sequence[Token]):
        super().__init__(text, tokens)
        #: The relation, what stands in it to a place without a box, and the token after that place.
        self.beyond: tuple[str, tuple[int, ...], int] | None = None
        self.dressed: tuple[int, ...] = ()  # who was said to wear clothes that have no box

    def leads(self, at: int) -> str:
        relation = self.relation(at)
        return relation[0] if relation else ""

    def begins_clause(self, at: int) -> bool:
        if self.word(at) in ("that", "which"):
            return True
        if not (relation := self.relation(at)) or relation[0] in ("at", "with", "without"):
            return False
        found = self.phrase(relation[1])
        return found is not None and found[0].kind not in ("surroundings", "frame", "abstract")

    def relation(self, at: int) -> tuple[str, int] | None:
        """A relation phrase or verb that begins here, and the token after it."""
        if at >= len(self.tokens):
            return None
        longest = _LONGEST.get(self.tokens[at].word, 0)
        for length in range(longest, 0, -1):
            said = " ".join(token.word for token in self.tokens[at : at + length])
            if (kind := w.RELATIONS.get(said)) and at + length <= len(self.tokens):
                sure = self.tokens[at].kind in "PRV" or said in ("by", "beside", "besides", "near")
                if length == 1 and not sure:
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

    def relate(self, at: int, kind: str, after: int) -> int:
        """Reads the relation phrase from ``at`` to ``after`` and what follows it; the token after that."""
        said = " ".join(token.word for token in self.tokens[at:after])
        before = self.word(at - 1)
        made = before in w.MADE and said in ("of", "out of", "from", "with")
        if made or kind == "without":
            return self._left_out(after, made and kind != "without")
        if said == "into":
            # "walking into a room" and "putting a cup into a box", but not "shouting into a microphone"
            kind = "in" if before in MOTION or self.how in ("verb", "hold") else "at"
        if said == "by" and before in w.PASSIVES:
            return self._passive(w.PASSIVES[before], after)
        done = self.tokens[at - 1].kind == "V" and before.endswith("ed") and before not in w.STAYING
        if said == "by" and done:
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
        objects, end = self.objects(kind, after)
        if kind == "with" and objects and self.beyond and self.beyond[2] == at:
            kind, first, _ = self.beyond  # "a train next to the road with a truck": next to the truck, too
            self.around = True
            return self.join(kind, first, objects, said, end)
        if end == after:
            return self._nothing_follows(kind, after, said)
        return self._relate_to(kind, objects, said, after, end)

    def _left_out(self, after: int, named: bool) -> int:
        """ "without a hat", "made with layers of cream": no things; ``named``: the notes say so."""
        found = self.phrase(after)
        if found and named:
            self.unboxed.append(found[0].core)
            if self.of(found[1]) and (inner := self.phrase(found[1] + 1)):
                return inner[1]
        return found[1] if found else after

    def _nothing_follows(self, kind: str, after: int, said: str) -> int:
        if self.word(after) in ("each", "one") and self.word(after + 1) in ("other", "another"):
            # "a cat and a dog next to each other": each to the one before
            group = self.last if len(self.last) > 1 else tuple(dict.fromkeys((*self.subject, *self.last)))
            if kind in ("beside", "with", "at", "left", "right"):
                mutual = (Relation("beside", (two,), (one,), said) for one, two in pairwise(group))
                self.scene.relations.extend(mutual)
            return after + 2
        telling = kind in DIRECTIONAL | {"between", "front", "behind"} and len(said.split()) > 1
        if telling and self.tokens[after - 1].kind == "P":
            self.scene.notes.append(f"{said!r} was left out: nothing that it is about follows it")
        return after

    def _relate_to(self, kind: str, objects: tuple[int, ...], said: str, after: int, end: int) -> int:
        first = self.subjects(kind, objects)
        if kind in ("in", "with", "wear") and (found := self.phrase(after)) and found[0].name in w.WORN:
            if self.how == "beside" and self.last and all(self.lives(i) for i in self.last):
                first = self.last  # "next to a child in a white shirt and black tie"
            self.dressed = first
        if objects:
            return self.join(kind, first, objects, said, end)
        self.joined = self.which = False
        self.blank = end
        self.beyond = (kind, first, end) if kind == "beside" or kind in DIRECTIONAL else None
        if kind in ASIDE and first:
            self.scene.relations.append(Relation(kind, first, (), said))
        return end

    def _passive(self, kind: str, after: int) -> int:
        """ "a cup held by a man"."""
        things = self.last
        objects, end = self.objects(kind, after)
        if things and objects:
            self.add_relation(kind, objects, things, (None, None), "by")
            self.last, self.how = objects, kind
            self.clear()
        return end

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
            or found[0].name not in w.WHOLE_PICTURES
            or found[0].determiner not in ("the", "this", "")
            or self.word(found[0].last + 1) == "of"
        ):
            return None
        if kind in _SIDES:
            if kind == "on" and self.tokens[after - 1].word == "on":
                return None
            self._set_place(_SIDES[kind], 1.0, kind)
        elif kind not in ("in", "at", "with"):
            return None
        return found[1]

    def objects(self, kind: str, at: int) -> tuple[tuple[int, ...], int]:
        """The things after a relation phrase, and the token after them; ``at`` itself where there are none."""
        start = at
        while at < len(self.tokens) and self.tokens[at].kind == "R" and self.phrase(at) is None:
            at += 1
        found = self.mentions(at, kind)
        return found if found else ((), start)

    def place_in_picture(self, at: int) -> int | None:
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
            elif after < len(self.tokens) and self.tokens[after].kind == "N" and self.word(after) != "there":
                return None  # "on the left bank"
            scale = 0.6 if said in w.BACKGROUND else 1.25 if said in w.FOREGROUND else 1.0
            self._set_place(w.PLACES[said], scale, said)
            return after
        return None

    def _set_place(self, place: Place, scale: float, said: str) -> None:
        # A place after a comma or "and" belongs to what follows where the last things have theirs already.
        placed = any(self.scene.mentions[i].place != (None, None) for i in self.last)
        if self.last and not (self.joined and not self.how and not self.acted and placed):
            for i in self.last:
                self.scene.mentions[i].place = place
                self.scene.mentions[i].scale *= scale
            self.clear()
        else:
            self.pending.append(("place", (), place, said))
