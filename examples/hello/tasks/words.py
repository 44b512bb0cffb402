"""Counts the words of a text. Two tasks in one file: `words` and `words.longest`."""

import re
from collections import Counter


def handler(text):
    """The ten most common words, most common first."""
    found = _words(text)
    top = [{"word": word, "count": count} for word, count in Counter(found).most_common(10)]
    return {"words": len(found), "different": len(set(found)), "top": top}


def longest(text):
    """The longest word."""
    return max(_words(text), key=len, default="")


def _words(text):
    # A name that starts with _ is no task.
    if not isinstance(text, str):
        raise TypeError(f"send a text, not a {type(text).__name__}")
    return re.findall(r"\w+", text.lower())
