"""Who holds which host on which gateway: the first to claim it keeps it, until it lets go."""

from __future__ import annotations

from bisect import insort

from router.problem import Problem


class Claims:
    """The hosts of every model. A host's owner, then those who wait for it, by name.

    Not in the order in which they came: replicas that started at different times would not agree who is next.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], list[str]] = {}
        self._claims: dict[str, tuple[str, tuple[str, ...]]] = {}

    def claim(self, model: str, gateway: str, hosts: tuple[str, ...]) -> frozenset[str]:
        """Claim these hosts, let go of others held before; says which other models' hosts changed by it."""
        if self._claims.get(model) == (gateway, hosts):
            return frozenset()
        wanted = {(gateway, host) for host in hosts}
        moved = self._leave(model, keep=wanted)
        if hosts:
            self._claims[model] = (gateway, hosts)
        for place in wanted:
            line = self._lines.setdefault(place, [])
            if model not in line:
                insort(line, model, lo=min(1, len(line)))
        return moved

    def release(self, model: str) -> frozenset[str]:
        """Let go of everything; says which models moved up and must be planned again."""
        return self._leave(model, keep=set())

    def held(self, model: str) -> tuple[str, ...]:
        """The hosts that are the model's, in its own order."""
        gateway, hosts = self._claims.get(model, ("", ()))
        return tuple(host for host in hosts if self._lines[gateway, host][0] == model)

    def owner(self, gateway: str, host: str) -> str | None:
        """The model that serves this host, if any."""
        line = self._lines.get((gateway, host))
        return line[0] if line else None

    def problems(self, model: str, where: str) -> tuple[Problem, ...]:
        """What the model asked for and others hold."""
        gateway, hosts = self._claims.get(model, ("", ()))
        return tuple(
            Problem(
                where,
                f"spec.hosts[{index}]",
                f"host {host!r} on gateway {gateway!r} belongs to {owner}, which claimed it first",
                f"choose another host, or remove it from {owner}",
            )
            for index, host in enumerate(hosts)
            if (owner := self.owner(gateway, host)) not in (None, model)
        )

    def _leave(self, model: str, keep: set[tuple[str, str]]) -> frozenset[str]:
        gateway, hosts = self._claims.pop(model, ("", ()))
        moved = set()
        for host in hosts:
            place = (gateway, host)
            if place in keep:
                continue
            line = self._lines[place]
            held = line[0] == model
            line.remove(model)
            if not line:
                del self._lines[place]
            elif held:
                moved.add(line[0])
        return frozenset(moved)
