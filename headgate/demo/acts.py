"""The rollout story, act by act: what happens, why, what the manifest says, and what must be seen in the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headgate.demo.manifest import PROBE_EVERY_MS, Arm, Edition

V1, V2 = "v1", "v2"


@dataclass(frozen=True, slots=True)
class Act:
    """`before` sets the scene and is not measured; then comes `edition` (an edit) or `ready` (what v2 says of itself).

    `shares` are what users must get of each version. `testers` is the version that every tester must get, when they
    are pinned. `copies` is the part of all requests that v2 must get as mirrored copies.
    """

    title: str
    words: str
    shares: Mapping[str, float]
    edition: Edition | None = None
    before: Edition | None = None
    ready: bool | None = None
    starts: str | None = None
    """A model server that is started first, unready unless it is the first one."""
    known: frozenset[str] = field(default=frozenset({V1, V2}))
    """The versions that the manifest has."""
    testers: str | None = None
    copies: float = 0.0
    untouched: str | None = None
    """A version that may not see a single request in this act, by its own count."""
    ends: str | None = None
    """A model server that is stopped when the act is over."""

    def routes(self) -> dict[str, tuple[int, float, bool]]:
        """What the control plane must have decided: version -> (basis points, mirror %, header match)."""
        return {
            version: (
                round(self.shares.get(version, 0.0) * 10_000),
                self.copies * 100 if version == V2 else 0.0,
                self.testers == version,
            )
            for version in self.known
        }


_BOTH = (Arm(V1), Arm(V2))

ACTS = (
    Act(
        title="v1 alone",
        words="One manifest names the model's host and its only version. Every request goes to v1.",
        starts=V1,
        edition=Edition((Arm(V1),), "blue-green"),
        shares={V1: 1.0},
        known=frozenset({V1}),
    ),
    Act(
        title="a candidate appears, but is not ready",
        words="v2 is added to the manifest while its server is still loading the model and fails its readiness check. "
        "It must not get a single request.",
        starts=V2,
        edition=Edition(_BOTH, "blue-green"),
        shares={V1: 1.0},
        untouched=V2,
    ),
    Act(
        title="v2 becomes ready",
        words="Nobody edits anything: v2 starts to pass its readiness check, and blue-green gives both versions half.",
        ready=True,
        shares={V1: 0.5, V2: 0.5},
    ),
    Act(
        title="the weights are changed",
        words="v2 does well, so two lines in the file give it four fifths.",
        edition=Edition((Arm(V1, weight=20), Arm(V2, weight=80)), "blue-green"),
        shares={V1: 0.2, V2: 0.8},
    ),
    Act(
        title="a header pins the testers",
        words="Users go back to one in ten on v2, but whoever sends 'traffic: test' always gets v2: "
        "header routes stand above the weights.",
        edition=Edition((Arm(V1, weight=90), Arm(V2, weight=10, testers=True)), "blue-green"),
        shares={V1: 0.9, V2: 0.1},
        testers=V2,
    ),
    Act(
        title="v2 gets a copy of every fifth request",
        words="Mirroring shows v2 real traffic without risk: users get v1's answers only, and what v2 answers to the "
        "copies is thrown away.",
        edition=Edition((Arm(V1), Arm(V2, mirror=20)), "mirror"),
        shares={V1: 1.0},
        copies=0.2,
    ),
    Act(
        title="v2 stops being ready",
        words="Both share the traffic again when v2 begins to fail its readiness check. All of it goes back to v1, "
        f"without an edit and without a failed request; the check runs every {PROBE_EVERY_MS} ms.",
        before=Edition(_BOTH, "blue-green"),
        ready=False,
        shares={V1: 1.0},
    ),
    Act(
        title="v2 is ready again, and promoted",
        words="v2 has recovered. It becomes the primary with all of the weight; v1 stays as it is, for a way back.",
        ready=True,
        edition=Edition((Arm(V1, weight=0), Arm(V2, weight=100)), "blue-green", primary=V2),
        shares={V2: 1.0},
        untouched=V1,
    ),
    Act(
        title="v1 is deleted",
        words="v1 leaves the manifest: Envoy first confirms that nothing points to it any more. "
        "Then its server is stopped.",
        edition=Edition((Arm(V2),), "blue-green"),
        shares={V2: 1.0},
        known=frozenset({V2}),
        untouched=V1,
        ends=V1,
    ),
)

AFTERWARDS = Edition((Arm(V1, weight=80), Arm(V2, weight=20, testers=True)), "blue-green")
"""What --keep leaves: both versions, and a header to try."""
