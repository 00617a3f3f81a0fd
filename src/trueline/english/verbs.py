"""Forms of the verbs that the rules planner knows."""

import re

from trueline.english import words as w


def _forms(verb: str) -> set[str]:
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "ie", "oe")) else verb
    doubled = verb + verb[-1] if re.search(r"[^aeiou][aeiou][bdglmnprt]$", verb) else stem
    third = (
        verb[:-1] + "ies"
        if re.search(r"[^aeiou]y$", verb)
        else verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else "s")
    )
    past = verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else None
    found = {verb, third, f"{stem}ing", f"{doubled}ing", past or f"{stem}ed", f"{doubled}ed"}
    return found | ({f"{verb[:-2]}ying"} if verb.endswith("ie") else set())


VERB_FORMS = frozenset(form for verb in w.VERBS for form in _forms(verb)) | w.IRREGULAR_VERBS
THIRD_PERSON = frozenset(form for verb in w.VERBS for form in _forms(verb) if form.endswith("s"))
MOTION = frozenset(form for verb in w.MOVES for form in _forms(verb)) | w.MOVED  #: forms of verbs of moving
