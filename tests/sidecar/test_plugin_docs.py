"""docs/plugins.md tells of every hook, attribute, metric, shipped plugin and key."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import sidecar.plugins
from sidecar.health import Health, Suspension, families
from sidecar.loading import PluginSpec
from sidecar.plugin import HttpContext, Plugin
from sidecar.proxy_config import ProxyConfig

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text()


def test_every_hook_and_attribute_is_documented() -> None:
    hooks = [name for kind in (HttpContext, Plugin) for name in vars(kind) if name.startswith("on_")]
    attributes = [name for name in Plugin.__annotations__ if name not in ("metrics", "shared", "log")]
    assert [name for name in (*hooks, *attributes) if f"`{name}" not in TEXT] == []


def test_every_metric_is_documented() -> None:
    names = [
        one.name + ("_total" if one.kind == "counter" else "") for one in families((Health("x", Suspension()),), 0.0)
    ]
    assert [name for name in names if f"`{name}`" not in TEXT] == []


def test_every_shipped_plugin_is_documented_with_its_configuration() -> None:
    for found in pkgutil.iter_modules(sidecar.plugins.__path__):
        module = importlib.import_module(f"sidecar.plugins.{found.name}")
        kinds = [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, Plugin) and one.__module__ == module.__name__
        ]
        for kind in kinds:
            (line,) = [line for line in TEXT.splitlines() if f"`{module.__name__}:{kind.__name__}`" in line]
            for key in kind.config_model.model_fields if kind.config_model else ():
                assert f"`{key}`" in line


def test_every_key_is_documented() -> None:
    for model in (ProxyConfig, PluginSpec):
        for name, field in model.model_fields.items():
            key = field.alias or name
            assert f"`{key}`" in TEXT or f"  {key}:" in TEXT or f"- {key}:" in TEXT, key
