"""Every text that a problem can have, read out of the source: what is wrong, and what to do, with … for what varies.

A text is an argument of `Problem` or `fault`, or of a function that hands an argument on to them; or the last but one
of a tuple where a function returns what is wrong and a hint.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIES = "…"
_SINKS = {"Problem": 2, "fault": 0, "Broken": 1}
_PAIRS = re.compile(r"^(tuple\[((Loc|Place), )?str, str\]( \| None)?|.*\bFault\b.*)$")
"""Return annotations of functions that return what is wrong and a hint at the end of a tuple."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Text:
    module: str
    what: str
    hint: str


def texts(root: Path, modules: list[Path]) -> set[Text]:
    """All of these modules; `root` is what their names are relative to."""
    scan = _Scan({str(path.relative_to(root)): ast.parse(path.read_text()) for path in modules})
    return set(scan.run())


class _Scan:
    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self._trees = trees
        self._sinks = dict(_SINKS)
        self._wrappers: list[tuple[str, int]] = []
        self._returns: dict[str, list[_Function]] = {}
        self._constants: dict[str, list[ast.expr]] = {}
        for tree in trees.values():
            for one in tree.body:
                for target in one.targets if isinstance(one, ast.Assign) else ():
                    if isinstance(target, ast.Name) and isinstance(one, ast.Assign):
                        self._constants.setdefault(target.id, []).append(one.value)
            for one in ast.walk(tree):
                if isinstance(one, _Function):
                    self._returns.setdefault(one.name, []).append(one)

    def run(self) -> Iterator[Text]:
        while True:  # until no further function is found to hand its argument on
            found = set(self._all())
            before = len(self._sinks)
            for name, place in self._wrappers:
                self._sinks.setdefault(name, place)
            if len(self._sinks) == before:
                return iter(found)

    def _all(self) -> Iterator[Text]:
        self._wrappers.clear()
        for module, tree in self._trees.items():
            yield from self._in(module, tree, None)

    def _in(self, module: str, node: ast.AST, inside: _Function | None) -> Iterator[Text]:
        for child in ast.iter_child_nodes(node):
            own = child if isinstance(child, _Function) else inside
            if isinstance(child, ast.Call):
                yield from self._call(module, child, own)
                if ast.unparse(child.func).endswith("faults.append") and isinstance(pair := child.args[0], ast.Tuple):
                    self._hands_on(pair.elts[-2], own)
                    yield from self._made(module, pair.elts[-2], pair.elts[-1], own)
            if isinstance(child, ast.Return | ast.Yield) and inside is not None and isinstance(child.value, ast.Tuple):
                yield from self._pair(module, child.value, inside)
            yield from self._in(module, child, own)

    def _call(self, module: str, call: ast.Call, inside: _Function | None) -> Iterator[Text]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in self._sinks:
            return
        place = self._sinks[name]
        given = {one.arg: one.value for one in call.keywords}
        what = given.get("what") or (call.args[place] if len(call.args) > place else None)
        hint = given.get("hint") or (call.args[place + 1] if len(call.args) > place + 1 else None)
        if what is not None and not any(isinstance(one, ast.Starred) for one in call.args):
            self._hands_on(what, inside)
            yield from self._made(module, what, hint, inside)

    def _hands_on(self, what: ast.expr, inside: _Function | None) -> None:
        """Note a function that takes the text as an argument: its callers say what it is."""
        if isinstance(what, ast.Call) and isinstance(what.func, ast.Attribute) and what.func.attr == "format":
            what = what.func.value
        if isinstance(what, ast.Name) and inside is not None and not _assigned(what.id, inside):
            names = [one.arg for one in inside.args.args if one.arg != "self"]
            if what.id in names:
                self._wrappers.append((inside.name, names.index(what.id)))

    def _pair(self, module: str, pair: ast.Tuple, inside: _Function) -> Iterator[Text]:
        if inside.returns is not None and len(pair.elts) > 1 and _PAIRS.search(ast.unparse(inside.returns)):
            yield from self._made(module, pair.elts[-2], pair.elts[-1], inside)

    def _made(self, module: str, what: ast.expr, hint: ast.expr | None, inside: _Function | None) -> Iterator[Text]:
        hints = [one for one in self._said(hint, inside) if one] if hint is not None else []
        for one in self._said(what, inside):
            if re.search(r"[a-z]{2}", one):
                yield Text(module, re.sub(r"{}", VARIES, one), " / ".join(dict.fromkeys(hints)))

    def _said(self, node: ast.expr | None, inside: _Function | None, depth: int = 0) -> list[str]:
        """What an expression can be, as far as the source tells."""
        if depth > 6 or node is None:
            return [VARIES]
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else [VARIES]
        if isinstance(node, ast.JoinedStr):
            return ["".join(one.value if isinstance(one, ast.Constant) else VARIES for one in node.values)]
        if isinstance(node, ast.IfExp):
            return self._said(node.body, inside, depth + 1) + self._said(node.orelse, inside, depth + 1)
        if isinstance(node, ast.BoolOp):
            return [one for each in node.values for one in self._said(each, inside, depth + 1)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            right = self._said(node.right, inside, depth + 1)
            return [a + b for a in self._said(node.left, inside, depth + 1) for b in right]
        if isinstance(node, ast.Name):
            given = _assigned(node.id, inside) if inside is not None else []
            given = given or self._constants.get(node.id, [])
            return [one for each in given for one in self._said(each, inside, depth + 1)] or [VARIES]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "format" and isinstance(node.func, ast.Attribute):
                return [re.sub(r"{.*?}", VARIES, one) for one in self._said(node.func.value, inside, depth + 1)]
            made = [
                one
                for function in self._returns.get(name, ())
                if len(self._returns[name]) == 1
                for one in _returned(function)
                for one in self._said(one, function, depth + 1)
            ]
            return made or [VARIES]
        return [VARIES]


@functools.cache
def _assigned(name: str, inside: _Function) -> list[ast.expr]:
    found: list[ast.expr] = []
    for one in ast.walk(inside):
        if isinstance(one, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in one.targets):
            found.append(one.value)
        elif isinstance(one, ast.Assign) and isinstance(one.value, ast.Tuple):
            for target in one.targets:
                if isinstance(target, ast.Tuple) and len(target.elts) == len(one.value.elts):
                    pairs = zip(target.elts, one.value.elts, strict=True)
                    found += [value for each, value in pairs if isinstance(each, ast.Name) and each.id == name]
        elif isinstance(one, ast.AugAssign) and isinstance(one.target, ast.Name) and one.target.id == name:
            found.append(ast.BinOp(ast.Constant(VARIES), ast.Add(), one.value))
    return found


def _returned(function: _Function) -> list[ast.expr]:
    return [one.value for one in ast.walk(function) if isinstance(one, ast.Return) and one.value is not None]
