"""Which findings the check makes of small models, each at its exact line, and that it leaves good models alone."""

import pytest

SCRIPT = ("global-variable", "missing-type-hint", "dynamic-type", "unscriptable-helper", "unsupported-python")


def found(report):
    """The findings but for those that concern scripting alone, which none of these models is to be captured by."""
    return sorted((f.path, f.line, f.slug, f.severity) for f in report.findings if f.slug not in SCRIPT)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("helper_two_away", ("helper_two_away", "prepare", "smooth")),
        ("submodule", ("submodule",)),
        ("decorated", ("decorated",)),
        ("inherited", ("inherited", "base")),
        ("closure", ("closure",)),
        ("harmless_leak", ("harmless_leak",)),
        ("array_attribute", ("array_attribute",)),
        ("devices", ("devices",)),
        ("device_in_forward", ("device_in_forward",)),
        ("states", ("states",)),
        ("flow", ("flow",)),
        ("own_generator", ("own_generator",)),
        ("ignored", ("ignored",)),
    ],
)
def test_exactly_the_marked_lines_are_found(check, expected, name, files):
    assert expected(*files)
    assert found(check(name)) == expected(*files)


@pytest.mark.parametrize("name", ["good_suspicious", "good_encoder", "good_decoder", "good_vision"])
def test_a_good_model_has_no_finding(check, name):
    devices = ("captured-device", "note")  # of `device=x.device`, which matters where a trace is moved
    assert [finding for finding in found(check(name)) if finding[2:] != devices] == []


def test_a_finding_names_the_calls_the_evidence_and_the_column(check):
    finding = next(f for f in check("helper_two_away").findings if f.slug == "numpy-in-forward")
    assert (finding.path, finding.column) == ("models/smooth.py", 12)  # `x` of x.detach().numpy()
    assert finding.evidence == "observed run"
    assert finding.chain == (
        "models/helper_two_away.py:13 in Net.forward",
        "models/prepare.py:7 in prepare",
        "models/smooth.py:7 in smooth",
    )


def test_a_wrapped_method_is_reached_through_its_wrapper(check):
    inner = next(f for f in check("decorated").findings if f.line == 25)
    assert inner.chain[-2:] == (
        "models/decorated.py:12 in scaled.<locals>.wrapper",
        "models/decorated.py:25 in Net.encode",
    )


def test_findings_are_sorted_and_the_same_each_time(check):
    one, two = check("states").findings, check("states").findings
    assert one == two
    assert list(one) == sorted(one, key=lambda f: (f.path, f.line, f.column, f.slug))


def test_paths_without_a_root_follow_the_module_name(check):
    assert {f.path for f in check("submodule", source_root=None).findings} == {"models/submodule.py"}


def test_severities_are_set_by_slug(check):
    report = check("inherited", severity={"non-torch-call": "note"})
    assert [severity for *_, severity in found(report)] == ["note", "note"]
    assert found(check("inherited", severity={"non-torch-call": "off"})) == []


def test_without_a_probe_the_effect_is_tried_on_a_varied_example(check, rules):
    """For every leak, not for the first alone."""
    from check_models import decorated

    from qntz.check import check_model

    module, example, _ = decorated.make()
    assert [severity for *_, severity in found(check_model(module, example, rules=rules))] == ["error", "error"]
    assert [severity for *_, severity in found(check("array_attribute"))] == ["error"]  # its make() gives no probe


@pytest.mark.parametrize("name", ["helper_two_away", "submodule", "decorated", "inherited", "closure", "harmless_leak"])
def test_severity_agrees_with_what_a_real_trace_does(check, name):
    """Error where the traced model is wrong on the probe, and none where it is right."""
    import importlib
    import warnings

    import torch

    report = check(name)
    torch.manual_seed(0)
    module, example, probes = importlib.import_module(f"check_models.{name}").make()
    example, probe = (tuple(i.values()) if isinstance(i, dict) else i for i in (example, probes[0]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, example, check_trace=False)
        try:
            right = torch.allclose(traced(*probe), module(*probe))
        except RuntimeError:  # the constants do not fit the probe's shape
            right = False
    assert right == (not report.errors)


@pytest.mark.parametrize(
    "name", ["helper_two_away", "submodule", "decorated", "inherited", "closure", "array_attribute"]
)
def test_the_lines_are_found_without_column_positions(check, monkeypatch, name):
    """Python 3.10 does not tell which expression a frame executes."""
    from qntz.check import record

    places = found(check(name))
    monkeypatch.setattr(record, "position_of", lambda frame: None)
    assert found(check(name)) == places
