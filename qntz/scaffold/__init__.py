"""`qntz init`: the files of a project, taken from the one source that this repository's own pipeline runs from, and
what they need around them: git, DVC, and lines in .gitignore and .dvcignore.

Nothing is imported here: `qntz doctor` compares files where PyYAML may be broken.
"""
