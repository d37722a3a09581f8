"""What the pages in docs/ say is there: links, commands, metrics, keys, reasons, messages, rights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
import yaml

from headgate.cli import cli
from headgate.config import Config, read
from router.cluster import status as conditions
from router.plugins import chosen
from router.schema import ModelRollout
from sidecar.loading import load

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *(ROOT / "deploy").rglob("README.md")]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def prose(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@every_page
def test_commands_exist_and_their_options_too(page: Path) -> None:
    for command, rest in re.findall(r"(?:^|[$|&] ?)headgate ([a-z]+)([^|\n]*)", code(page.read_text()), re.MULTILINE):
        assert command in cli.commands, command
        known = {option for one in commands(command) for each in one.params for option in each.opts}
        for option in re.findall(r"(?<= )--[a-z][a-z-]+", rest.partition(" -- ")[0]):
            assert option in known | {"--help"}, f"headgate {command} {option}"


def code(page: str) -> str:
    """Blocks and what is in backticks."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", prose(page))])


def commands(name: str) -> list[click.Command]:
    found = cli.commands[name]
    return [found, *getattr(found, "commands", {}).values()]


LISTS = ("configuration.md", "sidecar.md", "plugins.md")
PREFIXES = ("headgate_kubernetes", "headgate_xds", "headgate_plugin")


def test_metrics_are_those_of_the_pages_that_list_them() -> None:
    listed = "".join(page.read_text() for page in DOCS if page.name in LISTS)
    known = set(re.findall(r"^\| `(headgate_\w+)`", listed, re.MULTILINE))
    for page in DOCS:
        for name in re.findall(r"\bheadgate_[a-z_]+[a-z](?!\*)\b", page.read_text()):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, plain} & known or name in PREFIXES, f"{page.name}: {name}"


def test_keys_are_those_of_the_configuration_page() -> None:
    known = set(re.findall(r"^\| `([\w.\[\]]+)` \|", text("configuration.md"), re.MULTILINE))
    for page in DOCS:
        for name in re.findall(r"`(kubernetes\.[\w.]+)`", page.read_text()):
            within = any(one.startswith(f"{name}.") for one in known)
            assert name in known or within or name.startswith("kubernetes.resourceTypes."), f"{page.name}: {name}"


def reasons() -> set[str]:
    """Of all conditions, as the code gives them."""
    source = Path(str(conditions.__file__)).read_text()
    given = r'(?:ACCEPTED|READY|PROGRAMMED|DEGRADED), "(?:True|False|Unknown)", ("?\w+"?)'
    found = {*re.findall(given, source), *re.findall(r'\breason = (?:reason or )?("?\w+"?)$', source, re.MULTILINE)}
    named = {one.strip('"') if one.startswith('"') else str(getattr(conditions, one, "")) for one in found}
    return named - {""}


@pytest.mark.parametrize("page", ["status.md", "operating.md"])
def test_every_reason_of_a_condition_is_explained(page: str) -> None:
    assert {"NoVersionReady", "VersionNotReady", "ReplicaUnreachable", "Rejected"} <= reasons()
    well = {"PrimaryReady", "AsWanted", "Accepted", "Programmed"} if page == "operating.md" else set()
    missing = [one for one in sorted(reasons() - well) if f"`{one}`" not in text(page)]
    assert not missing


def test_messages_in_the_troubleshooting_are_what_the_code_says() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "router").rglob("*.py"))
    section = text("operating.md").split("## Troubleshooting: by what")[1].split("\n## ")[0]
    quoted = [
        one for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for one in re.findall(r"`(.+?)`", row)
    ]
    assert len(quoted) > 20
    for message in quoted:
        for piece in re.split(r"\.\.\.|:|\b[A-Z]{2,}\b|\d+|'x'|\bInferenceService\b|\bReady\b", message):
            words = piece.strip(" ():/")
            assert len(words) < 6 or words in source, f"{message!r}: nothing says {words!r}"


def test_the_rights_are_those_of_the_role() -> None:
    file = ROOT / "deploy/kustomize/overlays/cluster/rbac.yaml"
    roles = [one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == "ClusterRole"]
    (role,) = [one for one in roles if one["metadata"]["name"] == "headgate"]
    given = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    section = text("kubernetes.md").split("## Rights")[1]
    told = {}
    for group, resources, verbs in re.findall(r"^\|([^|]*)\|([^|]*`[^|]*)\|([^|]*)\|", section, re.MULTILINE):
        if "kubernetes.resourceTypes" in group or "leases" in resources:
            continue
        for resource in re.findall(r"`([\w/]+)`", resources):
            told[group.strip(" `"), resource] = {one.strip() for one in verbs.split(",")}
    assert told == given


def test_the_examples_of_turning_plugins_on_work(tmp_path: Path) -> None:
    section = text("plugins.md").partition("## Turn it on")[2].partition("\n## ")[0]
    configuration, manifest = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    file = tmp_path / "headgate.yaml"
    file.write_text(configuration)
    config = read(file)
    assert isinstance(config, Config)
    (gateway,) = (one.as_ir() for one in config.gateways)
    raw = yaml.safe_load(manifest)
    raw["apiVersion"], raw["metadata"] = "headgate.dev/v1alpha1", {"name": "iris"}
    raw["spec"] |= {"hosts": ["iris.test"], "versions": [{"name": "v1", "backend": {"endpoints": ["10.0.0.1:80"]}}]}
    found = chosen(ModelRollout.model_validate(raw), gateway, "")
    assert (found.running, found.problems) == (("rate-limit", "redact"), ())
    assert found.plugins is not None
    assert json.loads(found.plugins.chain[0].config) == {"per_second": 5}
    entries = [{"plugin": one.source, "config": json.loads(one.config)} for one in found.plugins.chain]
    assert load(entries).faults == ()
