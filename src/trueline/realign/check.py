"""Whether a picture shows what its prompt names: the end of a refinement. No torch."""

from dataclasses import asdict, dataclass

from trueline.english.naming import nouns, same_words
from trueline.perception.reason import CERTAIN
from trueline.realign.attributes import count_in, has_attributes
from trueline.realign.observation import GroundedObject, Observation


@dataclass(frozen=True)
class Check:
    """The prompt's noun phrases that a picture fulfils, those that it lacks, and tags of what is too much."""

    shown: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True for a prompt without nouns."""
        return not self.lacking and not self.surplus

    @property
    def points(self) -> tuple[int, int]:
        """Greater is better: first what is shown, then what is not too much."""
        return len(self.shown), -len(self.surplus)

    def record(self) -> dict[str, list[str]]:
        return {key: list(texts) for key, texts in asdict(self).items()}


def check_picture(prompt: str, observation: Observation) -> Check:
    """Each noun phrase against the things that were found: as many as it speaks of, reasoned certain, and with its
    colour and texture where the detector has read them. A thing whose phrase names several shows none of them. More
    things than the prompt speaks of are an error too."""
    shown: list[str] = []
    lacking: list[str] = []
    certain = [thing for thing in observation.things if thing.score == CERTAIN]
    clear = [thing for thing in certain if len(nouns(thing.phrase)) == 1]  # not the whole prompt
    for noun in nouns(prompt):
        if not noun.absent:
            own = [thing for thing in clear if _is(thing, noun.phrase)]
            (shown if len(own) >= (count_in(prompt, noun.phrase) or 1) else lacking).append(noun.phrase)
    return Check(tuple(shown), tuple(lacking), tuple(each.label for each in observation.surplus))


def _is(thing: GroundedObject, phrase: str) -> bool:
    return same_words(thing.phrase, phrase) and has_attributes(thing.detection, phrase)
