"""The demo's model really predicts, and its two versions really differ."""

import pytest

from headgate.demo.iris import load

FLOWERS = [  # rows of the classic data: sepal length and width, petal length and width
    ((5.1, 3.5, 1.4, 0.2), "setosa"),
    ((4.9, 3.0, 1.4, 0.2), "setosa"),
    ((5.0, 3.4, 1.5, 0.2), "setosa"),
    ((7.0, 3.2, 4.7, 1.4), "versicolor"),
    ((5.5, 2.3, 4.0, 1.3), "versicolor"),
    ((5.6, 2.9, 3.6, 1.3), "versicolor"),
    ((6.3, 3.3, 6.0, 2.5), "virginica"),
    ((5.8, 2.7, 5.1, 1.9), "virginica"),
    ((7.1, 3.0, 5.9, 2.1), "virginica"),
]


@pytest.mark.parametrize(("flower", "label"), FLOWERS)
def test_v2_knows_its_flowers(flower, label):
    assert load("v2").predict(flower).label == label


def test_v1_sees_no_petals_and_so_mistakes_a_virginica():
    v1 = load("v1")
    assert v1.predict((5.8, 2.7, 5.1, 1.9)).label == "versicolor"
    assert v1.predict((5.8, 2.7, 0.1, 0.1)) == v1.predict((5.8, 2.7, 5.1, 1.9))


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("flower", [(5.1, 3.5, 1.4, 0.2), (0.0, 0.0, 0.0, 0.0), (1e6, -1e6, 1e6, -1e6)])
def test_probabilities_add_up_to_one_and_the_label_is_the_likeliest(version, flower):
    model = load(version)
    found = model.predict(flower)
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.label == model.classes[found.probabilities.index(max(found.probabilities))]


def test_any_other_version_name_gets_the_weights_of_v1_or_v2():
    assert load("v4").coefficients == load("v2").coefficients
    assert load("v3").coefficients == load("candidate").coefficients == load("v1").coefficients
    assert load("candidate").version == "candidate"
