"""What is wrong with a configuration, for users: a line for each of pydantic's errors.

Not for: what may be set (see `config`).
"""

import difflib
import re
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from halcyon.errors import InputError

M = TypeVar("M", bound=BaseModel)
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


def validated(model: type[M], content: dict[str, Any], source: str) -> M:
    """Validate parsed content.

    Args:
        model: the section or file that the content must be.
        content: the parsed YAML.
        source: what to call it in messages, e.g. the file's name.

    Raises:
        InputError: a line for each fault: file, key, value, what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(_messages(error, model, source))) from None


def _messages(error: ValidationError, model: type[BaseModel], source: str) -> list[str]:
    """A line for each fault: file, key, value, what was expected."""
    lines = []
    for fault in error.errors():
        keys, section = _locate(model, fault["loc"])
        value, context = fault["input"], fault.get("ctx", {})
        match fault["type"]:
            case "extra_forbidden":
                expected = "unknown key" + _suggestion(keys[-1], model, section)
            case "missing" if isinstance(fault["loc"][-1], int):  # one of a pair
                keys, expected = keys[:-1], f"expected more values, got {len(value)}"
            case "missing":
                described = section.model_fields[keys[-1]].description if section else None
                value, expected = {}, f"missing; {described or 'required'}"
            case "union_tag_not_found":
                named = next(key for key in reversed(keys) if not key.isdigit())
                tags = _tags(section.model_fields[named]) if section else {}
                keys = [*keys, context["discriminator"].strip("'")]
                value, expected = {}, f"missing; expected {' or '.join(map(repr, tags))}"
            case "union_tag_invalid":
                keys = [*keys, context["discriminator"].strip("'")]
                value, choices = context["tag"], context["expected_tags"].replace(", ", " or ")
                expected = f"expected {choices}" + near(value, choices)
            case fault_type:
                expected = _expected(fault_type, value, context, fault["msg"])
        shown = "" if isinstance(value, dict) else f" = {shortened(value)}"
        where = f"{'.'.join(map(_bare, keys))}{shown}: " if keys else ""
        lines.append(f"{source}: {where}{expected}")
    lines = list(dict.fromkeys(lines))
    more = [f"{source}: and {len(lines) - MOST_LINES:,} more faults"] if lines[MOST_LINES:] else []
    return lines[:MOST_LINES] + more


SHOWN = 80
"""Characters of a value that a message shows."""
MOST_LINES = 20
"""Faults that a message has a line for; more are counted."""


def shortened(value: Any) -> str:
    """A value as a message shows it: a long one by its beginning, and how long it is.

    Only as much of a list is looked at as is shown: it may have a million entries.
    """
    if isinstance(value, (list, tuple)) and len(value) > SHOWN // 2:
        few = repr([*value[:3]])[:SHOWN]
        return f"{few.removesuffix(']')}, … ({len(value):,} entries)"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _bare(value: Any) -> str:
    """A key or value as a person writes it: a text without quotes."""
    return value if isinstance(value, str) and len(value) <= SHOWN else shortened(value)


_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a section of `key: value` lines",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "int_from_float": "expected an integer",
    "int_parsing": "expected an integer",
    "int_type": "expected an integer",
    "list_type": "expected a list, e.g. [{value}]",
    "literal_error": "expected {expected}",
    "model_attributes_type": "expected a section of `key: value` lines",
    "model_type": "expected a section of `key: value` lines",
    "path_type": "expected a path",
    "string_type": "expected text",
    "too_long": "expected at most {max_length} in the list",
    "too_short": "expected at least {min_length} in the list",
    "tuple_type": "expected a list, e.g. [{value}]",
}
"""Messages by the type of pydantic's error; other types keep pydantic's message."""


def _expected(fault_type: str, value: Any, context: dict[str, Any], message: str) -> str:
    """What was expected of a value."""
    if context.get("pattern") == NAME:
        return "expected a name of letters, digits, _ and -"
    if fault_type in _EXPECTED:
        return _EXPECTED[fault_type].format(value=_bare(value), **context) + near(value, message)
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    message = message.replace("greater than or equal to", "at least")
    return message.replace("less than or equal to", "at most")


def near(word: Any, choices: str | list[str]) -> str:
    """`; did you mean 'xtb'?`, if one of the choices is similar."""
    if not isinstance(word, str) or len(word) > SHOWN:
        return ""
    if isinstance(choices, str):
        choices = re.findall(r"'([^']*)'", choices)
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _suggestion(key: str, model: type[BaseModel], section: type[BaseModel] | None) -> str:
    """A hint for an unknown key: the same key in another section, or a similar one here."""
    if section is None:
        return ""
    for name, field in model.model_fields.items():
        if any(key in other.model_fields for other in _sections(field.annotation)):
            return f"; did you mean {f'{name}.{key}'!r}?"
    if close := near(key, list(section.model_fields)):
        return close
    return f"; expected one of {', '.join(section.model_fields)}"


def _locate(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel] | None]:
    """The keys as the user wrote them, and the section that the last one belongs to."""
    keys: list[str] = []
    section: type[BaseModel] | None = None
    below: type[BaseModel] | None = model
    tags: dict[Any, type[BaseModel]] = {}
    for part in loc:
        if part in tags:  # pydantic names the chosen section of a union; the user did not
            below, tags = tags[part], {}
            continue
        keys.append(str(part))
        if isinstance(part, int):  # an entry of a list: the next key belongs to it
            section = below or section
            continue
        section = below
        field = section.model_fields.get(part) if section else None
        sections = _sections(field.annotation) if field else []
        below = sections[0] if len(sections) == 1 else None
        tags = _tags(field) if field else {}
    return keys, section


def _tags(field: FieldInfo) -> dict[Any, type[BaseModel]]:
    """The sections that a union chooses from, by the value of the key that chooses."""
    discriminators = [field.discriminator, *_discriminators(field.annotation)]
    key = next((name for name in discriminators if isinstance(name, str)), None)
    if key is None:
        return {}
    sections = _sections(field.annotation)
    return {
        tag: section
        for section in sections
        for tag in get_args(section.model_fields[key].annotation)
    }


def _discriminators(annotation: Any) -> list[Any]:
    """Keys that choose between the sections in a list's entries."""
    if isinstance(annotation, FieldInfo):
        return [annotation.discriminator]
    return [key for part in get_args(annotation) for key in _discriminators(part)]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type is made of."""
    if get_origin(annotation) is None:
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return [annotation] if is_section else []
    return [section for part in get_args(annotation) for section in _sections(part)]
