"""An unknown name is refused in a sentence with the nearest known one."""

import pytest

from jaxflow.names import check_known, did_you_mean


def test_did_you_mean():
    known = ("uniform", "beta", "mode")
    assert did_you_mean("unifrom", known) == " (did you mean 'uniform'?)"
    assert did_you_mean("xyz", known) == did_you_mean(3, known) == did_you_mean("beta", []) == ""
    assert did_you_mean("mod", iter(known)) == " (did you mean 'mode'?)"


def test_check_known():
    check_known("times", "beta", ("uniform", "beta"))
    check_known("times", "beta", iter(("uniform", "beta")))
    for name, sentence in [
        ("bta", r"^times is 'bta' \(did you mean 'beta'\?\), but must be one of uniform, beta$"),
        (None, "^times is None, but must be one of uniform, beta$"),
        ([], r"^times is \[\], but must be one of uniform, beta$"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            check_known("times", name, ("uniform", "beta"))
