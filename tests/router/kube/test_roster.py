"""Who is alive, by Leases alone: the dead are missed, and silence of the API server kills nobody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.kube.roster import Member, Roster, Seen, read

OWN, OTHER = Member("own", "10.0.0.1:80"), Member("other", "10.0.0.2:80")


class Pair:
    """Two replicas that renew every 5 s for a Lease of 15 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.roster = Roster(OWN, now=0.0, silence=10.0)
        self.count = 0

    def renew(self, *members: Member) -> None:
        for member in members:
            self.count += 1
            seen = Seen(member, str(self.count), 15.0, "1")
            self.roster.heard(f"ns/{member.identity}", seen, self.now)

    def go(self, seconds: float, *renewing: Member) -> None:
        """Time passes, and these members renew their Leases; what nobody sees, nobody renewed."""
        end = self.now + seconds
        while self.now < end:
            self.now += 5.0
            self.renew(*renewing)

    @property
    def live(self) -> set[Member]:
        return set(self.roster.look(self.now))


def test_a_member_lives_while_it_renews_and_is_missed_when_it_does_not():
    it = Pair()
    it.renew(OWN, OTHER)
    it.go(60, OWN, OTHER)
    assert it.live == {OWN, OTHER}
    it.go(10, OWN)
    assert it.live == {OWN, OTHER}
    it.go(5, OWN)
    assert it.live == {OWN}
    assert it.roster.doubtful() == {OTHER}
    assert it.roster.changed_at == it.now


def test_a_member_that_leaves_is_gone_at_once_and_not_doubtful():
    it = Pair()
    it.renew(OWN, OTHER)
    it.now = 3.0
    it.roster.heard("ns/other", None, it.now)
    assert it.live == {OWN}
    assert not it.roster.doubtful()
    assert it.roster.changed_at == 3.0


def test_nobody_dies_while_our_own_renewals_are_not_seen_either():
    it = Pair()
    it.renew(OWN, OTHER)
    it.go(3600)
    assert it.live == {OWN, OTHER}


def test_after_a_silence_everybody_has_time_to_renew_again():
    it = Pair()
    it.renew(OWN, OTHER)
    it.go(3600)
    it.renew(OWN)
    assert it.live == {OWN, OTHER}
    it.go(10, OWN)
    assert it.live == {OWN, OTHER}
    it.go(5, OWN)
    assert it.live == {OWN}


def test_a_lease_that_was_left_over_counts_until_it_is_seen_not_to_change():
    it = Pair()
    it.renew(OTHER)
    assert it.live == {OWN, OTHER}
    it.renew(OWN)
    it.go(15, OWN)
    assert it.live == {OWN}
    it.go(600, OWN)
    assert list(it.roster.stale(600)) == ["ns/other"]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.1, 30)), max_size=30))
def test_who_renews_whenever_we_do_never_dies(steps):
    it = Pair()
    it.renew(OTHER)
    for own, both, wait in steps:
        it.now += wait
        it.renew(*((OTHER, OWN) if own or both else ()))
        assert it.live == {OWN, OTHER}


def test_a_lease_is_read_with_care():
    good = {
        "metadata": {"resourceVersion": "7", "annotations": {"headgate.dev/http": "10.0.0.2:80"}},
        "spec": {"holderIdentity": "other", "renewTime": "t", "leaseDurationSeconds": 20},
    }
    assert read(good) == Seen(OTHER, "t", 20.0, "7")
    assert read({**good, "spec": {"holderIdentity": "other", "renewTime": "t"}}) == Seen(OTHER, "t", 15.0, "7")
    assert read({**good, "spec": {}}) is None
    assert read({"metadata": {}, "spec": good["spec"]}) is None
    assert read({}) is None
