"""Small models for the rule check. A comment `expect: slug=severity` marks each line that has a finding; a file of a
good model has none. Each module has `make()`: the model, its example and its probes."""
