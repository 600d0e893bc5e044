"""The OpenAPI document of the endpoints that are plain ASGI; FastAPI describes the others itself."""

from typing import Any

from stratmaster_router.domain.routing import Endpoint

_ERROR = {"$ref": "#/components/schemas/Error"}
_TENANT = {
    "name": "X-Tenant-ID",
    "in": "header",
    "required": True,
    "schema": {"type": "string"},
    "description": "The tenant that the credential belongs to.",
}
_MODEL = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "description": "A task, an allowed model, or provider/model.",
}
_STREAMING = {
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": {"type": ["boolean", "null"]}},
    },
}
_TEXT_OR_ARRAY = {"anyOf": [{"type": "string"}, {"type": "array"}]}
_CONTENT = {
    "anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object"}}],
}

_BODIES: dict[Endpoint, tuple[str, dict[str, Any]]] = {
    Endpoint.CHAT: (
        "Create a chat completion",
        {
            "type": "object",
            "required": ["model", "messages"],
            "properties": {
                "model": _MODEL,
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["role"],
                        "properties": {"role": {"type": "string"}, "content": _CONTENT},
                    },
                },
                **_STREAMING,
            },
        },
    ),
    Endpoint.COMPLETIONS: (
        "Create a completion (legacy)",
        {
            "type": "object",
            "required": ["model", "prompt"],
            "properties": {"model": _MODEL, "prompt": _TEXT_OR_ARRAY, **_STREAMING},
        },
    ),
    Endpoint.EMBEDDINGS: (
        "Create embeddings",
        {"type": "object", "required": ["model", "input"], "properties": {"model": _MODEL, "input": _TEXT_OR_ARRAY}},
    ),
}

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "retryable", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "retryable": {"type": "boolean"},
                "request_id": {"type": "string"},
            },
        }
    },
}


def complete_document(document: dict[str, Any]) -> dict[str, Any]:
    """Add to FastAPI's `document` the provider endpoints, the credentials and the error shape; returns it."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR_SCHEMA
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "The tenant's API key, or a signed JWT."},
        "administrator": {"type": "http", "scheme": "bearer", "description": "An administrator's key or JWT."},
    }
    for path, item in document["paths"].items():
        for operation in item.values():
            operation["responses"].pop("422", None)
            for status, response in operation["responses"].items():
                if status >= "400":
                    response.update(_response(response["description"], _ERROR))
            operation["responses"]["default"] = _response("An error", _ERROR)
            if path.startswith("/admin/"):
                operation["security"] = [{"administrator": []}]
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}]
                operation.setdefault("parameters", []).append(_TENANT)
    for endpoint, (summary, schema) in _BODIES.items():
        document["paths"][f"/v1/{endpoint.value}"] = {"post": _operation(endpoint, summary, schema)}
    return document


def _operation(endpoint: Endpoint, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint is not Endpoint.EMBEDDINGS:
        answer["text/event-stream"] = {}
    return {
        "tags": ["openai"],
        "summary": summary,
        "operationId": "create_" + endpoint.value.replace("/", "_"),
        "description": "Fields that the router does not know travel to the provider untouched.",
        "security": [{"key": []}],
        "parameters": [_TENANT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "The provider's answer, byte for byte", "content": answer},
            "default": _response("An error", _ERROR),
        },
    }


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
