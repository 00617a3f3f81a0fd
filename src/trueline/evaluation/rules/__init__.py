"""The published scorers' rules, apart from their detectors: pure functions on ``Detection`` lists, one module a
benchmark, plain numbers out.

Where an official scorer has a quirk, ``mode="official"`` keeps it and ``mode="fixed"`` mends it; each module's
docstring names the source, its commit and every quirk. A result is named after rule, mode and the detector that
fed it: ``spatial[owlv2]``, never "UniDet". Nothing here imports torch.
"""
