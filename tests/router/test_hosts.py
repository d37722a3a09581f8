from hypothesis import given
from hypothesis import strategies as st

from router.hosts import Claims


def test_the_first_claimant_keeps_a_host_and_the_loser_is_told_who_has_it():
    claims = Claims()
    claims.claim("ml/iris", "default", ("iris.local",))
    claims.claim("ml/rose", "default", ("rose.local", "iris.local"))
    assert claims.held("ml/iris") == ("iris.local",)
    assert claims.held("ml/rose") == ("rose.local",)
    assert claims.problems("ml/iris", "a.yaml:1") == ()
    (problem,) = claims.problems("ml/rose", "b.yaml:1")
    assert str(problem) == (
        "b.yaml:1: spec.hosts[1]: host 'iris.local' on gateway 'default' belongs to ml/iris, which claimed it first "
        "(choose another host, or remove it from ml/iris)"
    )


def test_a_released_host_goes_to_the_next_in_line():
    claims = Claims()
    for model in ("ml/a", "ml/b", "ml/c"):
        claims.claim(model, "default", ("x.local",))
    assert claims.release("ml/b") == frozenset()
    assert claims.release("ml/a") == {"ml/c"}
    assert claims.owner("default", "x.local") == "ml/c"
    assert claims.problems("ml/c", "c.yaml:1") == ()


def test_an_edit_keeps_the_hosts_that_stay_and_frees_the_others():
    claims = Claims()
    claims.claim("ml/a", "default", ("x.local", "y.local"))
    claims.claim("ml/b", "default", ("x.local", "y.local"))
    assert claims.claim("ml/a", "default", ("z.local", "x.local")) == {"ml/b"}
    assert claims.held("ml/a") == ("z.local", "x.local")
    assert claims.held("ml/b") == ("y.local",)


def test_two_gateways_may_serve_the_same_host():
    claims = Claims()
    claims.claim("ml/a", "inside", ("x.local",))
    claims.claim("ml/b", "outside", ("x.local",))
    assert claims.held("ml/a") == claims.held("ml/b") == ("x.local",)


def test_moving_to_another_gateway_frees_the_host_on_the_old_one():
    claims = Claims()
    claims.claim("ml/a", "inside", ("x.local",))
    claims.claim("ml/b", "inside", ("x.local",))
    assert claims.claim("ml/a", "outside", ("x.local",)) == {"ml/b"}


def test_releasing_a_stranger_changes_nothing():
    assert Claims().release("ml/a") == frozenset()
    assert Claims().held("ml/a") == ()


models, hosts = st.sampled_from("abcd"), st.lists(st.sampled_from("wxyz"), unique=True).map(tuple)


@given(st.lists(st.tuples(models, hosts)))
def test_every_wanted_host_has_one_owner_and_every_change_of_another_model_is_reported(story):
    claims, wanted = Claims(), {}
    for model, want in story:
        before = {other: claims.held(other) for other in wanted}
        moved = claims.claim(model, "default", want)
        wanted[model] = want
        assert {other for other in before if other != model and claims.held(other) != before[other]} == moved
        held = [host for other in wanted for host in claims.held(other)]
        assert sorted(held) == sorted({host for hosts in wanted.values() for host in hosts})


def test_those_who_wait_stand_in_the_same_order_whenever_they_came():
    """Or replicas that started at different times would give a free host to different models."""
    for order in (("ml/b", "ml/c"), ("ml/c", "ml/b")):
        claims = Claims()
        for model in ("ml/z", *order):
            claims.claim(model, "default", ("x.local",))
        claims.release("ml/z")
        assert claims.owner("default", "x.local") == "ml/b"
