"""Which layers are classifiers, by order and names alone."""

import pytest
import timm
import torch

import kzoo
from kzoo.methods.parts import classifiers
from kzoo.zoo import Zoo


def test_classifiers_of_all_known_networks_are_those_that_grow_with_the_classes(zoo: Zoo):
    differ = []
    for name, entry in zoo.entries.items():
        form = entry.forms[""]
        architecture = entry.architecture(form, name)
        found = set(classifiers(architecture))
        if form.heads is not None and found != {architecture.layers[place].name for place in form.heads}:
            differ.append(name)
        assert not (entry.fields.get("classes") == 0 and found), name
    # Their auxiliary classifiers stand in the middle.
    assert differ == ["torchvision:googlenet", "torchvision:inception_v3"]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_target_without_a_head_loses_no_layer(name):
    source, target = timm.create_model(name, num_classes=5), timm.create_model(name, num_classes=0)
    kzoo.transfer(source, target)
    stored = source.state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in target.state_dict().items())


def test_a_convolution_may_be_a_classifier():
    assert classifiers(kzoo.architecture("torchvision:squeezenet1_1")) == ["classifier.1"]
