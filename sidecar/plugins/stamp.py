"""Every response says which version it is from and which request it answers. The simplest plugin: headers only."""

from __future__ import annotations

import uuid

from pydantic import BaseModel, ConfigDict

from sidecar.plugin import CONTINUE, Entry, Headers, HttpContext, Plugin, Result


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version_header: str = "app-version"
    request_id_header: str = "x-request-id"


class Stamping(HttpContext["Stamp"]):
    def on_request_headers(self, headers: Headers) -> Result:
        name = self.root.names.request_id_header
        self.request_id = headers.get(name) or str(uuid.uuid4())
        headers.set(name, self.request_id)
        return CONTINUE

    def on_response_headers(self, headers: Headers) -> Result:
        headers.set(self.root.names.request_id_header, self.request_id)
        version = self.get_property("version")
        if version:
            headers.set(self.root.names.version_header, str(version))
        return CONTINUE

    def on_log(self, entry: Entry) -> None:
        entry["request_id"] = self.request_id


class Stamp(Plugin):
    name = "stamp"
    context = Stamping
    properties = ("version",)
    config_model = Config

    def on_configure(self, config: Config) -> None:
        self.names = config
