"""The JSON Schema of a workflow's input: checked when the workflow is read, and inputs checked against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentflow.domain.workflow import Workflow
from agentflow.engine.definition.document import Node, plain
from agentflow.engine.definition.fields import Reader
from agentflow.engine.definition.problems import shown
from agentflow.errors import InputInvalid

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = "folder"
"""The `format` of a text that names a folder on the host."""
MAX_ERRORS = 50
_DATA_KEYS = frozenset({"const", "enum", "default", "examples"})
"""Under these stand values, not schemas."""
_SUBSCHEMAS = ("allOf", "anyOf", "oneOf")


def check_schema(node: Node, reader: Reader) -> Mapping[str, Any] | None:
    """The schema, if it is a valid one of JSON Schema 2020-12 without references to outside; else its errors are reported."""
    if node.kind != "mapping":
        reader.wrong_type(node, "`input`", "an object: a JSON Schema")
        return None
    from jsonschema import Draft202012Validator  # imported here: it takes 100 ms, and `import agentflow` must not

    schema: dict[str, Any] = plain(node)
    meta = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    sound = True
    for error in _errors(meta.iter_errors(schema)):
        place = _node_at(node, list(error.absolute_path))
        reader.problems.add(place, "schema", f"`input` is not a valid JSON Schema: {shown(error.message, limit=300)}")
        sound = False
    dialect = schema.get("$schema", DIALECT)
    if sound and dialect.rstrip("#") != DIALECT:
        reader.problems.add(_node_at(node, ["$schema"]), "schema", f"only JSON Schema 2020-12 is supported ({DIALECT})")
        sound = False
    if sound:
        sound = _check_references(node, schema, reader)
    return schema if sound else None


def validate_input(workflow: Workflow, value: Any) -> None:
    """Raises InputInvalid with all errors, each {path, message}; path is a JSON pointer into the input."""
    if workflow.input_schema is None:
        return
    try:
        found = list(_errors(_validator(workflow.input_schema).iter_errors(value)))
    except RecursionError:
        raise InputInvalid(
            "the input cannot be checked: the schema refers to itself without end, or the input is too deep", errors=[]
        ) from None
    if not found:
        return
    errors = [{"path": _pointer(error.absolute_path), "message": _message(error)} for error in found]
    first = errors[0]
    rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise InputInvalid(
        f"the input of workflow {workflow.name} is not valid: {first['path'] or '/'}: {first['message']}{rest}", errors=errors
    )


def folders_in(workflow: Workflow, value: Any) -> list[tuple[str, str]]:
    """(JSON pointer, path) of every text in the input that the schema calls a folder, in order.

    Every branch of the schema counts, also one that a validator would not take (`anyOf`, `if`): who checks the folders against
    `mount_roots` must rather see one too many.
    """
    found: dict[str, str] = {}
    if workflow.input_schema is not None:
        _Folders(workflow.input_schema, found).walk(workflow.input_schema, value, "")
    return list(found.items())


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # an explicit registry never fetches anything; the default one would go to the network for a `$ref`
    registry: Registry[Any] = Registry()
    return Draft202012Validator(schema, registry=registry)


def _errors(errors: Iterator[ValidationError]) -> Iterator[ValidationError]:
    for count, error in enumerate(errors):
        if count >= MAX_ERRORS:
            return
        yield error


def _message(error: ValidationError) -> str:
    text = shown(error.message, limit=500)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _pointer(path: Any) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    text = "".join(f"/{part}" for part in parts)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _node_at(node: Node, path: list[Any]) -> Node:
    for part in path:
        below = node.pairs.get(part, (None, None))[1] if node.kind == "mapping" else None
        if node.kind == "sequence" and isinstance(part, int) and part < len(node.items):
            below = node.items[part]
        if below is None:
            break
        node = below
    return node


def _check_references(root: Node, schema: Mapping[str, Any], reader: Reader) -> bool:
    sound = True
    stack = [(root, True)]
    while stack:
        node, is_root = stack.pop()
        stack.extend((item, False) for item in node.items)
        for key, (_, value) in node.pairs.items():
            if key in _DATA_KEYS:
                continue
            stack.append((value, False))
            message = ""
            if key == "$id" and not is_root and isinstance(value.value, str):
                message = "`$id` is supported at the top of the schema only"
            elif key in ("$ref", "$dynamicRef") and isinstance(value.value, str) and _resolve(schema, value.value) is None:
                message = f"`{shown(value.value)}` is not in this schema: references look like #/$defs/name"
            if message:
                reader.problems.add(value, "schema", message)
                sound = False
    return sound


def _resolve(root: Mapping[str, Any], reference: str) -> Any:
    """The subschema of a local reference (`#`, `#/…`, `#anchor`), or None."""
    if not reference.startswith("#"):
        return None
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    identity = root.get("$id", "")
    registry: Registry[Any] = Registry().with_resource(identity, DRAFT202012.create_resource(root))
    try:
        return registry.resolver(identity).lookup(reference).contents
    except (Unresolvable, ValueError, TypeError, LookupError):
        return None


class _Folders:
    """One walk over a schema and a value together."""

    def __init__(self, root: Mapping[str, Any], found: dict[str, str]) -> None:
        self._root, self._found = root, found
        self._seen: set[tuple[int, str]] = set()

    def walk(self, schema: Any, value: Any, path: str) -> None:
        if not isinstance(schema, Mapping) or (id(schema), path) in self._seen:
            return
        self._seen.add((id(schema), path))
        if isinstance(value, str) and schema.get("format") == FOLDER:
            self._found.setdefault(path, value)
        for key in ("$ref", "$dynamicRef"):
            if isinstance(schema.get(key), str):
                self.walk(_resolve(self._root, schema[key]), value, path)
        for key in _SUBSCHEMAS:
            for branch in schema.get(key) or ():
                self.walk(branch, value, path)
        for key in ("not", "if", "then", "else"):
            self.walk(schema.get(key), value, path)
        for branch in (schema.get("dependentSchemas") or {}).values():
            self.walk(branch, value, path)
        if isinstance(value, Mapping):
            self._properties(schema, value, path)
        elif isinstance(value, list):
            self._items(schema, value, path)

    def _properties(self, schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> None:
        named = schema.get("properties") or {}
        for key, part in value.items():
            below = path + _pointer([key])
            self.walk(named.get(key), part, below)
            for key_schema in (schema.get("patternProperties") or {}).values():
                self.walk(key_schema, part, below)
            for rest in ("additionalProperties", "unevaluatedProperties"):
                self.walk(schema.get(rest), part, below)

    def _items(self, schema: Mapping[str, Any], value: list[Any], path: str) -> None:
        first = schema.get("prefixItems") or []
        for index, part in enumerate(value):
            below = f"{path}/{index}"
            if index < len(first):
                self.walk(first[index], part, below)
            for rest in ("items", "contains", "unevaluatedItems"):
                self.walk(schema.get(rest), part, below)
