"""Judges a kind of model by its past: trained on what was known by then, judged by what came next."""
