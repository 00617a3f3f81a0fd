"""From noun phrases to the things of a scene: which get a box, which were named before, which come in groups."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from trueline.english import words as w
from trueline.english.noun_phrases import NounPhrase, noun_phrase
from trueline.english.plurals import is_noun_word
from trueline.english.tagging import Token
from trueline.planner.scene import Mention, PromptScene, Relation

DIRECTIONAL = frozenset({"left", "right", "above", "below"})
SUPPORT = frozenset({"on", "in"})
LARGER = 1.35  # of "a large cat"
SMALLER = 0.7
_MASS = frozenset(["coffee", "tea", "beer", "wine", "water", "milk", "juice", "soup"])
_CONTENTS = w.THINGS - _MASS
_ALIVE = w.PEOPLE | w.ANIMALS
_SHARED = w.ARTICLES | w.POSSESSIVES
_GENERIC = frozenset(["animal", "creature", "vehicle", "pair", "object", "item", "thing", "one"])


class Things(ABC):
    """The tokens of a prompt and the scene so far. ``role`` is how a noun phrase comes in: "free", or the relation
    whose object it is."""

    def __init__(self, text: str, tokens: Sequence[Token]):
        self.text, self.tokens = text, tokens
        self.scene = PromptScene()
        self.phrases: dict[int, tuple[NounPhrase, int] | None] = {}
        self.unboxed: list[str] = []
        self.subject: tuple[int, ...] = ()  # of the clause
        self.joined = self.acted = False  # whether "and", a verb stands before
        self.apposed = -1  # several that are described one by one: "two cats, a black one and a white one"

    @abstractmethod
    def begins_clause(self, at: int) -> bool:
        """Whether what begins here makes the noun phrase before it a subject."""

    @abstractmethod
    def leads(self, at: int) -> str:
        """The relation whose words begin here, or ""."""

    @abstractmethod
    def compares(self, at: int) -> bool:
        """Whether a comparison of numbers begins here."""

    def word(self, at: int) -> str:
        return self.tokens[at].word if 0 <= at < len(self.tokens) else ""

    def phrase(self, at: int) -> tuple[NounPhrase, int] | None:
        if at >= len(self.tokens) or self.tokens[at].kind not in "DCJNR" or self.word(at) in ("not", "never"):
            return None
        if at not in self.phrases:
            phrase = noun_phrase(self.text, self.tokens, at) or self._shared(at)
            self.phrases[at] = (phrase, phrase.last + 1) if phrase else None
        return self.phrases[at]

    def _shared(self, at: int) -> NounPhrase | None:
        """The first half of "a black and a white dog": its noun is that of the second."""
        end = at + 1
        while end < len(self.tokens) and self.tokens[end].kind == "J":
            end += 1
        joins = end > at + 1 and self.word(end) in ("and", "or") and self.word(end + 1) in w.ARTICLES
        if self.word(at) not in w.ARTICLES or not joins:
            return None
        second = noun_phrase(self.text, self.tokens, end + 1)
        if second is None or second.plural or not second.attributes:
            return None
        said = self.text[self.tokens[at + 1].start : self.tokens[end - 1].end]
        attributes = tuple(token.word for token in self.tokens[at + 1 : end])
        shared = replace(second, core=f"{said} {second.name}", attributes=attributes, determiner="a")
        start, last = self.tokens[at].start, end - 1
        return replace(shared, first=at, last=last, start=start, end=self.tokens[last].end)

    def mentions(self, at: int, role: str) -> tuple[tuple[int, ...], int] | None:
        """The things of a noun phrase and of those that "and" or commas join to it, and the token after them."""
        found = self.mention(at, role)
        if found is None:
            return None
        group, end = list(found[0]), found[1]
        first = self.phrase(at)
        if first and first[0].kind == "frame" and not group and role != "free":
            return found  # "on both sides and four sheep"
        while (joint := self._joint(end, role)) is not None:
            self._share(first[0] if first else None, joint)
            more = self.mention(joint, role)
            if more is None:
                break
            group += more[0]
            end = more[1]
        return tuple(dict.fromkeys(group)), end

    def _share(self, first: NounPhrase | None, at: int) -> None:
        """ "a white sink and black cabinet": the article is that of both."""
        found = self.phrase(at)
        if first is None or found is None or self.word(at - 1) != "and":
            return
        phrase, end = found
        bare = not (phrase.determiner or phrase.plural or phrase.count or phrase.vague)
        if bare and first.determiner in _SHARED:
            self.phrases[at] = replace(phrase, determiner=first.determiner), end

    def _joint(self, at: int, role: str) -> int | None:
        """The token where a joined noun phrase begins, if what follows belongs to the same group."""
        after = at
        while self.word(after) in (",", "and", "or", "&", "plus") and after < at + 3:
            after += 1
        if self.word(after) in ("also",):
            after += 1
        if self.compares(after):
            return None
        if after == at or (found := self.phrase(after)) is None:
            return None
        phrase, end = found
        if role != "free" and role not in ("between",):
            if self.of(end):
                inner = self.phrase(end + 1)
                end = inner[1] if inner else end
            following = self.tokens[end] if end < len(self.tokens) else None
            starts = following is not None and (following.kind == "V" or self.begins_clause(end))
            if starts or (role in SUPPORT | {"front", "behind", "ride"} and phrase.determiner):
                return None
        return after

    def of(self, at: int) -> bool:
        return self.word(at) == "of"

    def mention(self, at: int, role: str) -> tuple[tuple[int, ...], int] | None:
        """The things of one noun phrase with its "of": none where it is no thing, two of "a bowl of three apples"."""
        tokens = self.tokens
        if at >= len(tokens):
            return None
        if tokens[at].kind == "C" and self.of(at + 1) and (inner := self.phrase(at + 2)):  # "two of the dogs"
            count = w.NUMBERS.get(tokens[at].word)
            if among := self._part_of(inner[0], count or 0):
                return among, inner[1]
            several = replace(inner[0], count=count) if count else inner[0]
            return self.place_phrase(several, role, inner[0].core), inner[1]
        found = self.phrase(at)
        if found is None:
            return None
        phrase, end = found
        number = w.NUMBERS.get(self.word(end + 1)) if self.of(end) and not self.phrase(end + 1) else None
        if phrase.name == "family" and number:  # "a family of four"
            people = replace(phrase, name="person", count=number)
            return self.place_phrase(people, role, phrase.core), end + 2
        if phrase.name == "couple" and phrase.determiner in w.ARTICLES and not self.of(end):
            people = replace(phrase, name="person", kind="thing", count=2)
            return self.place_phrase(people, role, phrase.core), end
        if self.of(end) and (inner := self.phrase(end + 1)):
            return self._with_of(phrase, end, *inner, role)
        if phrase.kind in ("part", "frame") and phrase.determiner == "'s":
            return self._owner(phrase, role), end
        return self.place_phrase(phrase, role, phrase.core), end

    def _with_of(
        self, phrase: NounPhrase, end: int, content: NounPhrase, end_of_content: int, role: str
    ) -> tuple[tuple[int, ...], int] | None:
        """ "a bowl of three apples", "the top of a table": the thing, what is in it, or both."""
        if phrase.name == "glasses" and content.name in _MASS:
            phrase = replace(phrase, name="glass", plural=True)  # "glasses of wine"
        name = phrase.name
        if name in w.EXACT_GROUPS or name in w.GROUPS or name in w.TRANSPARENT or name in w.PORTIONS:
            made = self._grouped(phrase, end + 1, role)
            if made is not None:
                return made
        if phrase.kind == "frame" or (name in w.PICTURES and not self.scene.mentions):
            return None if content.kind == "frame" else self.mention(end + 1, role)
        if name in w.PARTS_OF_OTHERS and content.kind != "part":
            return self.mention(end + 1, role)
        things = phrase.kind == content.kind == "thing"
        known = is_noun_word(name.rpartition(" ")[2]) or not is_noun_word(content.name)
        if things and not known and content.determiner:
            return self.mention(end + 1, role)  # "the exhaust pipe of a car"
        exact = content.is_exact and (content.determiner or content.count)
        boxed = content.kind == "thing" and content.name in _CONTENTS and content.name not in w.CONTAINERS
        if name in w.CONTAINERS and boxed and (exact or content.name not in w.FLOWERS):
            holder = self.place_phrase(phrase, role, phrase.core)
            inside = self.place_phrase(content, "free", content.core)
            if holder and inside:
                self.scene.relations.append(Relation("in", inside, holder, "of"))
            return holder or inside, end_of_content
        whole = self.text[self.tokens[phrase.last].end - len(phrase.core) : content.end]
        core = whole if name in w.CONTAINERS or name in w.THINGS else phrase.core
        return self.place_phrase(phrase, role, core), end_of_content

    def _grouped(self, outer: NounPhrase, at: int, role: str) -> tuple[tuple[int, ...], int] | None:
        """ "a pair of dogs", "a herd of cows", "two slices of pizza"."""
        inner = self.phrase(at)
        if inner is None:
            return None
        content, end = inner
        name, number = outer.name, outer.count
        if name in w.PORTIONS and number is None and outer.vague is None and content.determiner in w.ARTICLES:
            outer = replace(outer, count=1)  # "pieces of a cake"
        if name in w.PORTIONS or (name in ("bunch", "cluster") and content.name in w.BUNCHED):
            whole = self.text[outer.end - len(outer.core) : content.end]
            kind = "furnishing" if content.kind in ("surroundings", "abstract", "part") else content.kind
            kept = outer.name if name in w.NAMED_BY_ITSELF else content.name
            return self.place_phrase(replace(outer, name=kept, kind=kind), role, whole), end
        if self.of(end):  # "a pair of slices of pizza"
            found = self._grouped(content, end + 1, role) if content.name in w.PORTIONS else None
            if found:
                return found
        if name in w.TRANSPARENT:
            content = replace(content, count=number if number else content.count)
            return self.place_phrase(content, role, content.core), end
        if content.name in w.PLURAL_FORMS and name == "pair":
            content = replace(content, count=number or 1, vague=outer.vague)
            return self.place_phrase(content, role, content.core), end
        if content.count is None and content.vague is None:
            if name in w.EXACT_GROUPS:
                content = replace(content, count=(number or 1) * w.EXACT_GROUPS[name])
            elif content.plural or content.name in w.UNCHANGED | {"person"}:
                content = replace(content, vague=(number or 1) * w.GROUPS[name])
        return self.place_phrase(content, role, content.core), end

    def _owner(self, phrase: NounPhrase, role: str) -> tuple[int, ...]:
        """ "a cat's tail" is a cat."""
        number = next(i for i in range(phrase.first, phrase.last + 1) if self.word(i) == "'s")
        owner = noun_phrase(self.text, self.tokens[:number], phrase.first)
        return self.place_phrase(owner, role, owner.core) if owner else ()

    def place_phrase(self, phrase: NounPhrase, role: str, core: str) -> tuple[int, ...]:
        """Adds a mention or finds the one that is meant; () where the phrase gets no box."""
        if phrase.count == 0:
            return ()
        if phrase.name == "one":
            meant = self._meant(phrase)
            if isinstance(meant, tuple):
                return meant
            phrase, core = meant, meant.core
        if (known := self.known(phrase)) is not None:
            return known
        if not self.boxed(phrase, role):
            if phrase.kind != "frame":
                self.unboxed.append(phrase.core)
            return ()
        scale = 1.0
        if any(word in w.LARGE for word in phrase.attributes):
            scale = LARGER
        if any(word in w.SMALL for word in phrase.attributes):
            scale *= SMALLER
        self.scene.mentions.append(Mention(phrase, core, phrase.name, phrase.amount, phrase.is_exact, scale))
        return (len(self.scene.mentions) - 1,)

    def _meant(self, phrase: NounPhrase) -> NounPhrase | tuple[int, ...]:
        """ "a white one" with the noun that it stands for: of the last thing that is described, else of the last. The
        things themselves for "two cats, a black one and a white one"."""
        others = [i for i in range(len(self.scene.mentions)) if not self.human(i)]
        if not others:
            return ()
        described = [i for i in others if self.scene.mentions[i].phrase.attributes]
        one = (described or others)[-1]
        mention = self.scene.mentions[one]
        apposed = self.word(phrase.first - 1) == "," or mention.phrase.last == phrase.first - 1
        if apposed and mention.amount > (phrase.amount if phrase.plural else 1):
            self.apposed = one
        if self.apposed == one:
            return (one,)
        said = self.text[phrase.start : phrase.end].rpartition(" ")[0]
        core = " ".join([*(word for word in said.split() if word.lower() not in w.ARTICLES), mention.name])
        return replace(phrase, name=mention.name, core=core, kind=mention.phrase.kind)

    def known(self, phrase: NounPhrase) -> tuple[int, ...] | None:
        """The mentions that "the dog" goes back to, or None for a new one."""
        if phrase.determiner not in ("the", "this", "that", "these", "those", "both"):
            return None
        for i in range(len(self.scene.mentions) - 1, -1, -1):
            mention = self.scene.mentions[i]
            if mention.name == phrase.name and phrase.count in (None, mention.amount):
                said = set(phrase.attributes) - {"other", "same"}
                if "other" not in phrase.attributes and (not said or said <= set(mention.phrase.attributes)):
                    return (i,)
        if not phrase.plural and phrase.count is None and (among := self._part_of(phrase, 1)):
            return among  # "two dogs ..., the black dog"
        if phrase.plural and phrase.name in _GENERIC and self.subject:
            return self.subject
        return None

    def _part_of(self, phrase: NounPhrase, count: int) -> tuple[int, ...]:
        """The several that "the dog" or "two of the dogs" is among: of its kind, and of no other colour."""
        if phrase.determiner != "the" or "other" in phrase.attributes:
            return ()
        colours = set(phrase.attributes) & w.COLOURS
        for i in reversed(range(len(self.scene.mentions))):
            mention = self.scene.mentions[i]
            others = set(mention.phrase.attributes) & w.COLOURS
            if mention.name == phrase.name and mention.amount >= max(count, 2):
                return (i,) if not (colours and others) or colours & others else ()
        return ()

    def boxed(self, phrase: NounPhrase, role: str) -> bool:
        """Whether a phrase stands for something that gets a box."""
        counted = bool(phrase.determiner or phrase.count is not None or phrase.vague is not None)
        free = role == "free" and not (self.acted and self.subject and not self.joined)
        apart = role in DIRECTIONAL | {"between", "apart", "larger", "smaller"}
        if phrase.name in w.BALL_GAMES and counted:
            return True  # "a baseball": the ball
        if phrase.kind == "thing":
            if role == "at" and phrase.name == "camera" and phrase.determiner == "the":
                return False  # "looks at the camera"
            if role == "in" and phrase.name == "circle":
                return False  # "people in a circle"
            if role in ("on", "in", "at") and phrase.name in w.IDIOMS and not (counted or phrase.attributes):
                return False
            if phrase.name in w.PICTURES and not counted and self.scene.mentions:
                return False  # "a badger, oil painting"
            sure = counted or phrase.plural or is_noun_word(phrase.name.rpartition(" ")[2])
            return sure or (role == "free" and not self.acted)
        if phrase.kind == "worn":
            bare = self.subject and not any(self.lives(i) for i in self.subject)
            near = role in ("beside", "on", "front", "behind") or (role == "with" and bare)
            near = near and (counted or bool(phrase.attributes))
            return (
                (free and counted)
                or apart
                or (near and phrase.determiner not in w.POSSESSIVES)
                or (role == "wear" and not phrase.plural and phrase.determiner not in w.POSSESSIVES)
            )
        if phrase.kind == "furnishing":
            if role == "below" and phrase.name in w.COVERS:
                return False  # "under a blanket"
            described = counted or (phrase.plural and bool(phrase.attributes))
            return (described and role not in ("in", "at")) or (free and phrase.plural)
        if phrase.kind == "surroundings":
            beside = role in ("left", "right", "between") or (
                role == "free" and self.leads(phrase.last + 1) in ("left", "right")
            )
            return (beside and counted) or (phrase.count or 0) > 1
        if phrase.kind == "part":
            return ((free and counted) or apart) and not phrase.owner
        return False

    def lives(self, mention: int) -> bool:
        name = self.scene.mentions[mention].name
        return name in _ALIVE or name in w.FIGURES or name.rpartition(" ")[2] in _ALIVE

    def human(self, mention: int) -> bool:
        """Whether it is a person by its noun, or by a capital in the middle of the prompt or before a second one."""
        named = self.scene.mentions[mention]
        words = named.text.split()
        return (
            named.name in w.PEOPLE
            or named.name.rpartition(" ")[2] in w.PEOPLE
            or (len(words) > 1 and all(word[0].isupper() for word in words) and not named.phrase.determiner)
        )
