"""`python -m stratmaster_router` is the command `stratmaster-router`."""

from stratmaster_router.cli.main import app

app(prog_name="stratmaster-router")
