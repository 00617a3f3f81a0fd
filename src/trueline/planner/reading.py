"""From a prompt to a scene: what is there, how many, and how it stands to each other.

A single pass over tokens: noun phrases and relation phrases in their order, with a few rules of attachment ("a
cat on a bed next to a dog": both; "a cat left of a dog, which is above a bird": the dog). It is a reader of
captions and of templates, not a grammar of English: what it leaves out, it says in ``PromptScene.notes``.
"""

import re
from collections.abc import Sequence

from trueline.english import words as w
from trueline.english.noun_phrases import NounPhrase
from trueline.english.tagging import Tagger, Token, tokens_of
from trueline.planner.relating import Relating
from trueline.planner.scene import PromptScene, comparison, settle

_FINITE = frozenset(["is", "are", "was", "were", "has", "have"])
_COMPARING = frozenset(
    ["the", "number", "amount", "count", "more", "fewer", "less", "as", "twice", "same", "equal", "an"]
)
#: "two dogs, one black and the other white"; not "on one side and on the other side".
_ONE_AND_OTHER = re.compile(
    r"(?<!on )\b(?:one|some)\b (?!side|hand|end)(?:(?! [.;!?] ).)*?\b(?:the others?|others)\b(?! side| hand| end)"
)
_PUNCTUATION = frozenset("\"'()[]{}*_-\u2013\u2014/\\`~|<>#@$%^=+\u201c\u201d\u2018\u2019\u2026\ufe0f")


def read(prompt: str, tagger: Tagger = "textblob") -> PromptScene:
    """What a prompt says that the picture shows."""
    return _PromptReader(prompt, tokens_of(prompt, tagger)).read()


class _PromptReader(Relating):
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
        self.beyond, self.around, self.blank, self.dressed = None, False, -1, ()
        self.clear()

    def read(self) -> PromptScene:
        at = 0
        while at < len(self.tokens):
            at = self._step(at)
        self._new_sentence()
        settle(self.scene, self.comparisons)
        self._finish()
        return self.scene

    def _step(self, at: int) -> int:
        token = self.tokens[at]
        if (after := self._comparison(at)) is not None:
            return after
        if (place := self.place_in_picture(at)) is not None:
            return place
        if token.word in ("not", "never"):
            return self._negated(at + 1)
        if relation := self.relation(at):
            return self.relate(at, *relation)
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
            self.acted = True
            self.finite = self.finite or token.word in _FINITE or token.word.endswith("s")
        elif token.kind == "O" and not self.pending:
            self._pronoun(token)
        elif token.kind == "?" and token.text not in _PUNCTUATION:
            self.unused.append(token.text)
        return at + 1

    def _negated(self, at: int) -> int:
        """ "not a dog": no thing; "not on the bed": no relation, which the notes say."""
        if found := self.phrase(at):
            return found[1]
        if not (relation := self.relation(at)):
            return at
        self.objects(relation[0], relation[1])
        said = " ".join(token.word for token in self.tokens[at : relation[1]])
        self.scene.notes.append(f"'not {said}' was left out: what is denied is not planned")
        self.clear()
        found = self.phrase(relation[1])
        return found[1] if found else relation[1]

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

    def compares(self, at: int) -> bool:
        return at < len(self.tokens) and self._compared(at) is not None

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

    def _finish(self) -> None:
        """What the scene's notes have to say, and numbers that go with those of others."""
        scene = self.scene
        for relation in scene.relations:
            if relation.kind in ("hold", "wear", "ride"):
                owners = sum(scene.mentions[i].amount for i in relation.first)
                for i in relation.second:
                    mention = scene.mentions[i]
                    phrase = mention.phrase
                    if owners > 1 and phrase.plural and phrase.vague is None and not mention.exact:
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
