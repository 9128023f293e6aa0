"""How good the classifier is, measured on alerts whose right recipe is known; no web, and nothing is stored.

rows      what was predicted, what is right, and both together
lines     JSON lines in and out, with the place of what is wrong
intervals how far a figure may be off by chance
figures   the figures of one run
comparing the figures of two runs on the same alerts
kinds     incident type and severity
running   a tier over alerts
confirmed the incidents of a tenant that people have answered
report    all of it as text
"""
