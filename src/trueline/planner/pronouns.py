"""What pronouns and possessives go back to: "on top of it", "behind them", "in its mouth", "to her left"."""

from trueline.english import words as w
from trueline.english.noun_phrases import NounPhrase
from trueline.planner.clause import Clause
from trueline.planner.scene import Relation
from trueline.planner.things import DIRECTIONAL, SUPPORT

_OBJECT_PRONOUNS = ("it", "them", "him", "her")


class Pronouns(Clause):
    """Relation phrases whose object is a pronoun, or a part of something named before."""

    def antecedent(self, pronoun: str, without: tuple[int, ...]) -> tuple[int, ...]:
        """The mentions that a pronoun goes back to: the subject if it fits, else the last that does, but not what is
        said of it. () where nothing fits."""
        subject = () if set(self.subject) & set(without) else self.subject
        left = [i for i in range(len(self.scene.mentions)) if i not in without]
        if pronoun in ("they", "them"):
            return self._several(subject, left)
        single = [i for i in left if self.scene.mentions[i].amount == 1]
        if pronoun == "it":
            fits = [i for i in single if not self.human(i)]
        else:
            fits = [i for i in single if self.human(i)] or [i for i in single if self.lives(i)]
        if not without and len(subject) == 1 and subject[0] in fits:
            return subject
        if fits:
            return (fits[-1],)
        return subject if pronoun in ("it", "he", "she") else ()

    def owner(self, pronoun: str, things: tuple[int, ...]) -> tuple[int, ...]:
        """Who "it", "he", "she" or "they" means where a part of a body follows: the subject if it lives, else the
        last that does, but not the things themselves. () where nobody fits."""
        alive = [i for i in range(len(self.scene.mentions)) if i not in things and self.lives(i)]
        if pronoun in ("he", "she"):
            alive = [i for i in alive if self.human(i)] or alive
        elif pronoun == "it":
            alive = [i for i in alive if not self.human(i)] or alive
        if self.subject and set(self.subject) <= set(alive):
            return self.subject
        return tuple(alive[-1:]) or (() if set(self.subject) & set(things) else self.subject)

    def _several(self, subject: tuple[int, ...], left: list[int]) -> tuple[int, ...]:
        """What "them" is: a subject of several, the last of several, all that was named; "they" may be one person."""
        amounts = [mention.amount for mention in self.scene.mentions]
        if sum(amounts[i] for i in subject) > 1:
            return subject
        if many := [i for i in left if amounts[i] > 1]:
            return (many[-1],)
        return tuple(left) if len(left) > 1 else subject or tuple(left)

    def relate_to_part(self, kind: str, after: int, said: str) -> int | None:
        """ "with a ball in its mouth", "holding an umbrella over her head"; the token after the part."""
        found = self.phrase(after)
        if found is None or found[0].determiner not in w.OWNERS or not self.last:
            return None
        if self.how in DIRECTIONAL | SUPPORT | {"beside", "front", "behind"}:
            return None  # "a bus next to a truck on its side": not on the bus
        part = found[0].name
        if part in ("left", "right") or (
            part == "side" and found[0].attributes[:1] in (("left",), ("right",))
        ):
            return self._own_side(part if part != "side" else found[0].attributes[0], found[0], said)
        if part in w.OUTER_PARTS.get(kind, ()):
            how = kind
        elif kind in ("in", "on", "below", "between") and part in w.HOLDING_PARTS:
            how = "hold"
        elif kind == "on" and part in w.CARRYING_PARTS:
            how = "on"
        elif kind in SUPPORT and part in w.COVERS_OF_THINGS and found[0].determiner == "its":
            how = kind  # "a book with a prism on its cover"
        else:
            return None
        things = self.last
        whose = self.antecedent if how == kind and part in w.COVERS_OF_THINGS else self.owner
        owner = whose(w.OWNERS[found[0].determiner], things)
        if not owner or any(self.scene.mentions[i].name in w.WORN for i in things):
            return None
        self.scene.relations = [
            known
            for known in self.scene.relations
            if not (known.kind == "hold" and known.first == owner and set(known.second) <= set(things))
        ]
        first, second = (owner, things) if how == "hold" else (things, owner)
        self.scene.relations.append(Relation(how, first, second, f"{said} {found[0].determiner} {part}"))
        self.clear()
        return found[1]

    def _own_side(self, side: str, phrase: NounPhrase, said: str) -> int | None:
        """ "a pineapple with a beer to its left"."""
        things = self.last
        topic = tuple(i for i in range(len(self.scene.mentions)) if i not in things)[:1]
        owner = topic if phrase.determiner == "its" else self.owner(w.OWNERS[phrase.determiner], things)
        if not owner:
            return None
        words = f"{said} {phrase.determiner} {side}"
        self.scene.relations.append(Relation(side, things, owner, words))
        self.clear()
        return phrase.last + 1

    def pronoun_after(self, at: int) -> int | None:
        """The token of a pronoun that a relation phrase before ``at`` is about."""
        while at < len(self.tokens) and self.tokens[at].kind == "R" and self.phrase(at) is None:
            at += 1
        if at >= len(self.tokens):
            return None
        word, kind = self.word(at), self.tokens[at].kind
        each_other = word in ("each", "one") and self.word(at + 1) in ("other", "another")
        known = word in _OBJECT_PRONOUNS or (word in w.OTHER_PRONOUNS and not each_other)
        return at if (known and kind == "O") or (word in ("which", "whom") and kind == "S") else None

    def relate_to_pronoun(self, kind: str, at: int, begin: int, said: str) -> int:
        """ "a banana on top of it", "above it a kite", "on which a cup stands"; the token after the pronoun."""
        pronoun, end = self.word(at), at + 1
        if begin == self.blank and kind in SUPPORT:
            return end  # "a cup with milk in it"
        first: tuple[int, ...] = ()
        objects: tuple[int, ...] = ()
        if pronoun in ("which", "whom"):
            fresh = self.last and self.scene.mentions[self.last[-1]].phrase.last in (begin - 1, begin - 2)
            objects = self.last if fresh else ()
        elif pronoun in w.OTHER_PRONOUNS or (pronoun == "it" and self.around):
            pass  # "beside himself", "above others": not read
        elif (self.joined or not self.last) and self._names(end):
            objects = self.antecedent(pronoun, ())
        else:
            first = self.subjects(kind, ())
            if pronoun in ("him", "her") and self.last and self.antecedent(pronoun, self.last) == first:
                first = self.last  # "a woman holding an umbrella over her": nobody is over herself
            objects = self.antecedent(pronoun, first)
            if not objects and len(first) > 1:  # "a dog and a cat behind it": the cat
                first = first[-1:]
                objects = self.antecedent(pronoun, first)
        if objects:
            return self.join(kind, first, objects, said, end)
        if kind not in ("at", "with"):
            self.scene.notes.append(
                f"'{said} {pronoun}' was left out: {pronoun!r} was not traced to a thing with a box"
            )
        self.joined = self.which = False
        return end

    def _names(self, at: int) -> bool:
        """Whether a thing is named there, after a verb at most: "above it (there is) a kite"."""
        while at < len(self.tokens) and (self.tokens[at].kind in "VR," or self.word(at) == "there"):
            if found := self.phrase(at):
                return found[0].kind != "frame"
            at += 1
        found = self.phrase(at)
        return found is not None and found[0].kind != "frame"
