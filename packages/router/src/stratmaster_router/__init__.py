"""StratMaster Router: one OpenAI-compatible door in front of many model providers, behind which policy decides."""

__version__ = "0.1.0"
