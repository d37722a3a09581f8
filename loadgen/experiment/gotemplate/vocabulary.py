"""What a template can call: Go's own functions, and those of sprig that are pure. Arguments come in sprig's order."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import string
import urllib.parse
from collections.abc import Callable

import yaml

from loadgen.experiment.gotemplate import functions
from loadgen.experiment.gotemplate.values import kind_of, number, printed, printf, truth, whole

_GO: dict[str, Callable[..., object]] = {
    "not": lambda value: not truth(value),
    "eq": functions.equal,
    "ne": lambda one, other: not functions.equal(one, other),
    "lt": lambda one, other: (lambda pair: pair[0] < pair[1])(functions.comparable(one, other)),
    "le": lambda one, other: (lambda pair: pair[0] <= pair[1])(functions.comparable(one, other)),
    "gt": lambda one, other: (lambda pair: pair[0] > pair[1])(functions.comparable(one, other)),
    "ge": lambda one, other: (lambda pair: pair[0] >= pair[1])(functions.comparable(one, other)),
    "index": functions.indexed,
    "slice": functions.part,
    "len": functions.length,
    "print": lambda *values: "".join(printed(each) for each in values),
    "println": lambda *values: " ".join(printed(each) for each in values) + "\n",
    "printf": printf,
    "urlquery": lambda *values: urllib.parse.quote_plus("".join(printed(each) for each in values)),
    "html": lambda text: (
        printed(text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&#34;")
        .replace("'", "&#39;")
    ),
    "js": lambda text: json.dumps(printed(text))[1:-1],
}
_DEFAULTS: dict[str, Callable[..., object]] = {
    "default": lambda fallback, value=None: value if truth(value) else fallback,
    "empty": lambda value: not truth(value),
    "coalesce": lambda *values: next((each for each in values if truth(each)), None),
    "ternary": lambda yes, no, test: yes if truth(test) else no,
    "all": lambda *values: all(truth(each) for each in values),
    "any": lambda *values: any(truth(each) for each in values),
    "fail": functions.fail,
    "required": functions.required,
    "kindOf": kind_of,
    "kindIs": lambda kind, value: kind_of(value) == kind,
    "typeOf": lambda value: {"map": "map[string]interface {}", "slice": "[]interface {}", "invalid": "<nil>"}.get(
        kind_of(value), kind_of(value)
    ),
    "deepEqual": lambda one, other: one == other,
}
_TEXTS: dict[str, Callable[..., object]] = {
    "lower": lambda text: printed(text).lower(),
    "upper": lambda text: printed(text).upper(),
    "title": lambda text: printed(text).title(),
    "trim": lambda text: printed(text).strip(),
    "trimAll": lambda letters, text: printed(text).strip(letters),
    "trimPrefix": lambda prefix, text: printed(text).removeprefix(prefix),
    "trimSuffix": lambda suffix, text: printed(text).removesuffix(suffix),
    "trunc": lambda size, text: text[:size] if size >= 0 else text[size:],
    "abbrev": lambda size, text: text if len(text) <= size else text[: max(0, size - 3)] + "...",
    "substr": lambda start, end, text: text[max(start, 0) : end if end >= 0 else None],
    "replace": lambda old, new, text: printed(text).replace(old, new),
    "contains": lambda part, text: part in printed(text),
    "hasPrefix": lambda prefix, text: printed(text).startswith(prefix),
    "hasSuffix": lambda suffix, text: printed(text).endswith(suffix),
    "quote": functions.quote,
    "squote": functions.squote,
    "cat": lambda *values: " ".join(printed(each) for each in values if each is not None),
    "indent": functions.indent,
    "nindent": lambda width, text: "\n" + functions.indent(width, text),
    "repeat": functions.repeat,
    "nospace": lambda text: re.sub(r"\s", "", printed(text)),
    "join": lambda by, values: by.join(printed(each) for each in values),
    "split": lambda by, text: {f"_{number}": part for number, part in enumerate(text.split(by))},
    "splitList": lambda by, text: text.split(by),
    "sortAlpha": lambda values: sorted(printed(each) for each in values),
    "toString": printed,
    "toStrings": lambda values: [printed(each) for each in values],
    "regexMatch": lambda pattern, text: functions.compiled(pattern).search(text) is not None,
    "regexFind": lambda pattern, text: functions.first_match(pattern, text),
    "regexFindAll": lambda pattern, text, most: [one[0] for one in functions.compiled(pattern).finditer(text)][
        : most if most >= 0 else None
    ],
    "regexReplaceAll": functions.replace_all,
    "regexReplaceAllLiteral": lambda pattern, text, by: functions.compiled(pattern).sub(lambda _: by, text),
    "b64enc": lambda text: base64.b64encode(printed(text).encode()).decode(),
    "b64dec": lambda text: base64.b64decode(text).decode(),
    "sha256sum": lambda text: hashlib.sha256(printed(text).encode()).hexdigest(),
    "randAlphaNum": functions.random_text(string.ascii_letters + string.digits),
    "randAlpha": functions.random_text(string.ascii_letters),
    "randNumeric": functions.random_text(string.digits),
}
_NUMBERS: dict[str, Callable[..., object]] = {
    "add": functions.folded(lambda one, other: one + other, whole),
    "add1": lambda value: whole(value) + 1,
    "sub": functions.folded(lambda one, other: one - other, whole),
    "mul": functions.folded(lambda one, other: one * other, whole),
    "div": functions.folded(functions.divided, whole),
    "mod": lambda one, other: int(math.fmod(whole(one), whole(other))),
    "addf": functions.folded(lambda one, other: one + other, lambda value: float(number(value))),
    "subf": functions.folded(lambda one, other: one - other, lambda value: float(number(value))),
    "mulf": functions.folded(lambda one, other: one * other, lambda value: float(number(value))),
    "divf": functions.folded(lambda one, other: one / other, lambda value: float(number(value))),
    "max": lambda *values: max(whole(each) for each in values),
    "min": lambda *values: min(whole(each) for each in values),
    "floor": lambda value: float(math.floor(number(value))),
    "ceil": lambda value: float(math.ceil(number(value))),
    "round": functions.rounded,
    "int": whole,
    "int64": whole,
    "float64": lambda value: float(number(value)),
    "atoi": whole,
    "until": functions.until,
    "untilStep": functions.numbers,
    "seq": lambda *bounds: " ".join(map(str, functions.numbers(bounds[0] if len(bounds) > 1 else 1, bounds[-1] + 1))),
}
_COLLECTIONS: dict[str, Callable[..., object]] = {
    "list": lambda *values: list(values),
    "dict": functions.mapping,
    "get": lambda value, key: value.get(key, ""),
    "hasKey": lambda value, key: key in value,
    "set": lambda value, key, each: {**value, key: each},
    "unset": lambda value, key: {name: each for name, each in value.items() if name != key},
    "keys": lambda *maps: [key for one in maps for key in one],
    "values": lambda value: list(value.values()),
    "pick": lambda value, *keys: {key: value[key] for key in keys if key in value},
    "omit": lambda value, *keys: {key: each for key, each in value.items() if key not in keys},
    "pluck": functions.pluck,
    "merge": functions.merged,
    "mergeOverwrite": functions.overwritten,
    "dig": lambda *path: functions.dig(path),
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
    "rest": lambda values: values[1:],
    "initial": lambda values: values[:-1],
    "append": lambda values, each: [*values, each],
    "prepend": lambda values, each: [each, *values],
    "concat": lambda *lists: [each for one in lists for each in one],
    "has": lambda each, values: each in values,
    "without": lambda values, *unwanted: [each for each in values if each not in unwanted],
    "uniq": lambda values: [each for number, each in enumerate(values) if each not in values[:number]],
    "compact": lambda values: [each for each in values if truth(each)],
    "reverse": lambda values: list(reversed(values)),
    "toJson": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=printed),
    "toRawJson": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=printed),
    "toPrettyJson": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=printed),
    "fromJson": lambda text: json.loads(text),
    "toYaml": functions.to_yaml,
    "fromYaml": lambda text: yaml.load(text, Loader=yaml.CSafeLoader),
    "now": functions.now,
    "date": functions.date,
    "unixEpoch": lambda at: str(int(at.timestamp())),
}

FUNCTIONS: dict[str, Callable[..., object]] = {**_GO, **_DEFAULTS, **_TEXTS, **_NUMBERS, **_COLLECTIONS}
