"""Task `notify`: tell Slack, GitHub or any webhook; the body is a Go template of the run's summary and report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loadgen.experiment import summary
from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.fetch import text, words
from loadgen.experiment.gotemplate import Template, TemplateFault
from loadgen.experiment.present import report
from loadgen.experiment.tasks.settings import GitHubSettings, NotifySettings, SlackSettings

SLACK = '{"text": {{ printf "Your experiment report is ready: %s" (.Summary | toPrettyJson) | toJson }}}'
GITHUB = '{"event_type": "headgate", "client_payload": {{ .Summary | toJson }}}'
GITHUB_API = "https://api.github.com"


async def perform(settings: NotifySettings, context: Context) -> Done:
    try:
        return Done(await _sent(settings, context))
    except TaskFailure as failure:
        if settings.soft_failure:
            return Done(f"{failure}; softFailure: true", soft=True)
        raise


async def slack(settings: SlackSettings, context: Context) -> Done:
    return await perform(
        NotifySettings(
            url=settings.url,
            method="POST",
            headers={"Content-Type": "application/json"},
            payloadTemplateURL=settings.payload_template_url,
            payload_template=None if settings.payload_template_url else SLACK,
            soft_failure=settings.soft_failure,
        ),
        context,
    )


async def github(settings: GitHubSettings, context: Context, api: str = GITHUB_API) -> Done:
    return await perform(
        NotifySettings(
            url=f"{api}/repos/{settings.owner}/{settings.repo}/dispatches",
            method="POST",
            headers={
                "Authorization": f"token {settings.token}",
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
            },
            payloadTemplateURL=settings.payload_template_url,
            payload_template=None if settings.payload_template_url else GITHUB,
            soft_failure=settings.soft_failure,
        ),
        context,
    )


async def _sent(settings: NotifySettings, context: Context) -> str:
    import aiohttp

    body = await _payload(settings, context)
    method = settings.method or ("POST" if body is not None else "GET")
    headers = dict(settings.headers)
    if body is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json" if _is_json(body) else "text/plain; charset=utf-8"
    try:
        async with (
            context.session(settings.timeout) as session,
            session.request(
                method,
                settings.url,
                params=settings.params,
                data=body.encode() if body is not None else None,
                headers=headers,
                allow_redirects=False,  # a POST would arrive as a GET, without its body
            ) as answer,
        ):
            said = (await answer.content.read(500)).decode(errors="replace")
            status = answer.status
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TaskFailure(f"{_bare(settings.url)} was not told: {words(error)}") from None
    if not 200 <= status < 300:
        detail = f": {' '.join(said.split())}" if said.strip() else ""
        if 300 <= status < 400:
            detail = ", which is not followed: give the address that it leads to"
        what = f"did not receive successful status code for notify task: {_bare(settings.url)} answers {status}"
        raise TaskFailure(what + detail)
    return f"{_bare(settings.url)} answers {status}"


async def _payload(settings: NotifySettings, context: Context) -> str | None:
    source = settings.payload_template
    if settings.payload_template_url is not None:
        source = await text(context, settings.payload_template_url)
    if source is None:
        return None
    try:
        return Template(source).render(data(context))
    except TemplateFault as fault:
        where = settings.payload_template_url or "payloadTemplate"
        raise TaskFailure(f"the template {where} cannot be rendered: {fault}") from None


def data(context: Context) -> Mapping[str, Any]:
    """What templates see: Summary as in Iter8, Report with the whole experiment and its text."""
    from loadgen.report.experiment import render

    said = render(report(context.result), "text")
    return {
        "Summary": summary.summary(context.experiment, context.result, context.now()),
        "Report": {
            "text": said,
            "experiment": summary.document(context.experiment, context.result),
        },
        "JSONStringReport": json.dumps(said)[1:-1],
    }


def _is_json(body: str) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _bare(url: str) -> str:
    """Without the path: webhooks keep their secret there."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
