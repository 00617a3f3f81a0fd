"""What a clause is about so far, whom a relation phrase in it is about, and what the relation then is."""

from collections.abc import Sequence

from trueline.english import words as w
from trueline.english.plurals import is_noun_word
from trueline.english.tagging import Token
from trueline.planner.scene import Place, Relation
from trueline.planner.sizes import lair, ridden, size_of
from trueline.planner.things import DIRECTIONAL, SUPPORT, Things

#: Words by which a holder has things in it or on it: "a bowl with apples".
HOLDING = frozenset(["with", "filled with", "full of", "containing", "topped with", "of"])


class Clause(Things):
    """The things named last and how, and what was said since: by it a relation phrase finds its first end."""

    def __init__(self, text: str, tokens: Sequence[Token]):
        super().__init__(text, tokens)
        self.last: tuple[int, ...] = ()  # the things named last
        self.how = ""  # the relation by which they came in; "" for subjects
        self.holder: tuple[int, ...] = ()  # of what came in by "with"
        #: Relations whose first end is not named yet: kind, objects, place of the picture, words.
        self.pending: list[tuple[str, tuple[int, ...], Place, str]] = []
        self.blank = -1  # the token after what a relation phrase is about and has no box: "with milk (in it)"
        self.around = False  # whether something was said to be at a place without a box, which "it" then is
        self.clear()

    def clear(self) -> None:
        """After a noun phrase: no "and", "which", "is" or other verb stands before what comes."""
        self.joined = self.which = self.finite = self.acted = False

    def subjects(self, kind: str, objects: tuple[int, ...]) -> tuple[int, ...]:
        """Whom a relation phrase is about."""
        if self.subject and self.last and self.worn(self.last) and kind != "on":
            return self.subject
        if self.which or not self.how or not self.subject:
            return self.last
        if (
            self.joined
            or (self.finite and self.how != "verb")
            or (
                self.how == "with"
                and objects
                and kind in SUPPORT
                and not (self.acted and self.lifeless(self.last))
                and not self._smaller(objects, self.holder)
            )
        ):
            return self.subject
        if kind in ("hold", "wear", "ride") and self.how in ("on", "in", "beside", "wear", "hold", "ride"):
            return self.subject
        if kind == "on" and self.how in ("verb", "hold") and not self.acted and self._lies(objects):
            return self.last
        if self.how in ("hold", "wear", "ride", "verb"):
            return self.subject if kind != "in" or self.how == "ride" else self.last
        if self.how in SUPPORT and kind in DIRECTIONAL | {"beside", "between", "front", "behind", "apart"}:
            return self.subject
        if self.how == "beside" and kind in SUPPORT:
            return tuple(dict.fromkeys((*self.subject, *self.last)))
        return self.last

    def _lies(self, objects: tuple[int, ...]) -> bool:
        """Whether what was named last is on the objects, rather than who acts on it: "blowing out candles on a
        cake", but "eating a pizza on a bench"."""
        names = [self.scene.mentions[i].name for i in objects]
        seats = any(lair(name) is not None or ridden(name) is not None for name in names)
        return bool(names) and self.lifeless(self.last) and self.lifeless(objects) and not seats

    def _smaller(self, ones: tuple[int, ...], others: tuple[int, ...]) -> bool:
        """Whether lifeless things cannot carry others: "a table with a cake on a plate"."""
        mentions = self.scene.mentions
        mine, theirs = ([size_of(mentions[i].name)[0] for i in group] for group in (ones, others))
        return bool(others) and self.lifeless(others) and max(mine) < min(theirs)

    def lifeless(self, group: tuple[int, ...]) -> bool:
        return not any(self.lives(i) for i in group)

    def add_relation(
        self, kind: str, first: tuple[int, ...], second: tuple[int, ...], place: Place, said: str
    ) -> None:
        """Adds a relation as what it comes to between these things: "with" is "in" a bowl, "on" a table, "wear" for
        a hat, or nothing. ``place``: that of the picture where ``first`` is instead."""
        mentions = self.scene.mentions
        first = tuple(i for i in first if i not in second)
        if place != (None, None):
            for i in first:
                mentions[i].place = place
            return
        if not first or not second:
            return
        if kind == "between" and sum(mentions[i].amount for i in second) < 2:
            kind = "in" if said.startswith("in the middle") else "beside"
        if kind == "around":
            several = sum(mentions[i].amount for i in first) > 1
            kind, first, second = ("between", second, first) if several else ("beside", first, second)
        if kind == "with" and said in HOLDING:
            holder = mentions[first[-1]].name.rpartition(" ")[2] if len(first) == 1 else ""
            if holder in w.SURFACES or holder in w.CONTAINERS:
                into = "on" if holder in w.SURFACES else "in"
                self.scene.relations.append(Relation(into, second, first, said))
                return
        if kind in ("with", "at") or (kind == "in" and any(mentions[i].name in w.WORN for i in second)):
            worn = tuple(i for i in second if mentions[i].name in w.WORN)
            if not worn or not all(self.lives(i) for i in first):
                if kind == "in":
                    self.scene.relations.append(Relation("in", first, second, said))
                return
            kind, second = "wear", worn
        if kind == "hold" and not all(self.lives(i) or not is_noun_word(mentions[i].name) for i in first):
            holder = mentions[first[-1]].name.rpartition(" ")[2]
            into = "in" if holder in w.CONTAINERS and holder not in w.SURFACES else "on"
            kind, first, second = into, second, first  # "a plate holding a cake", "a vase holding a flower"
        kept: list[Relation] = []
        for known in self.scene.relations:  # what "with" let us think gives way to what is said
            thought = known.kind in SUPPORT and known.words in HOLDING and set(known.first) <= set(first)
            if not thought or not (kind in SUPPORT or set(known.second) == set(second)):
                kept.append(known)
            elif (
                kind in SUPPORT and not self.acted and self._smaller(second, known.second)
            ):  # "a table with a cake on a plate"
                kept.append(Relation(known.kind, second, known.second, known.words))
        self.scene.relations = kept
        self.scene.relations.append(Relation(kind, first, second, said))

    def worn(self, group: tuple[int, ...]) -> bool:
        """Whether all of them are worn on the body."""
        return all(self.scene.mentions[i].name in w.WORN for i in group)

    def join(self, kind: str, first: tuple[int, ...], objects: tuple[int, ...], said: str, end: int) -> int:
        """Notes a relation down, or keeps its objects till what stands there is named; ``end`` again."""
        if not first and kind in ("with", "at", "hold", "wear", "ride"):
            self.last, self.how = objects, ""
            self.subject = self.subject or objects
            self.clear()
            return end
        if not first:
            self.pending.append((kind, objects, (None, None), said))
            self.clear()
            return end
        self.add_relation(kind, first, objects, (None, None), said)
        if kind == "with":
            self.holder = first
        if self.how == "" and not self.subject:
            self.subject = first
        self.last, self.how = objects, kind
        self.clear()
        return end
