"""The command `stratmaster-router`."""

import typer

from stratmaster_router.cli import bridge, demo, keys, ledger, logs, policy, serve

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A policy-enforcing, OpenAI-compatible gateway.")
app.command("serve")(serve.serve)
app.command("litellm-bridge")(bridge.litellm_bridge)
app.command("demo")(demo.demo)
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(logs.app, name="logs")
app.add_typer(policy.app, name="policy")
