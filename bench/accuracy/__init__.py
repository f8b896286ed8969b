"""How well the detector finds what is not normal, in data nobody has labelled: docs/accuracy.md."""
