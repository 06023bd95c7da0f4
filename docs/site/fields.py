"""Takes the comment behind a name (its unit, shape or range) as its text in the API reference."""

import io
import tokenize
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Gives the fields of a class, and the annotated names of a module, the comments that end their lines."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add a table of all fields to the docstring of a class where at least one has a comment."""
        comments = {each.name: _comment(each) for each in cls.attributes.values() if _is_field(each)}
        if any(comments.values()) and cls.docstring:
            rows = [f"    {name}: {text}" for name, text in comments.items()]
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *rows])

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Make the comment of a name of a module its docstring."""
        if attr.parent and attr.parent.is_module and _is_field(attr) and (text := _comment(attr)):
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)


def _is_field(attr: griffe.Attribute) -> bool:
    return bool(attr.annotation) and attr.is_public and not attr.docstring and "property" not in attr.labels


def _comment(attr: griffe.Attribute) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(attr.source).readline)
    return "".join(each.string.lstrip("# ") for each in tokens if each.type == tokenize.COMMENT)
