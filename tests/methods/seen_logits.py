"""What methods that edit logits do to them, seen in a run."""

from tiny import sampled

from trueline.sampling.method import Method


def opened(site):
    """Recording these opens the layers that such a method opens: the same kernels, for comparisons bit for bit."""
    return site.kind in ("self", "cross")


class Watch(Method):
    """Keeps the logits that pass it, in lists that the test reads."""

    seen: list

    def taps(self, site):
        return opened(site)

    def edit(self, site, logits, ctx):
        self.seen.append((site, ctx, logits))
        return logits


def logits_of(backbone, layouts, method, steps, **options):
    """(site, ctx, logits before the method, logits after it) of each call."""
    before, after = [], []
    watched = (Watch.model_construct(seen=before), method, Watch.model_construct(seen=after))
    list(sampled(backbone, layouts, watched, **({"steps": steps} | options)))
    return [(site, ctx, x, y) for (site, ctx, x), (_, _, y) in zip(before, after, strict=True)]
