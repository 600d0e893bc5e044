"""StratMaster Router: one OpenAI-compatible door in front of many model providers, behind which policy decides."""
