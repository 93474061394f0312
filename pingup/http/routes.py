"""The one table of REST calls. `{agent_id}` in a path is the agent that a call is about (see `access`)."""

from __future__ import annotations

from pingup.http import agents, commands, configs, discovery, gaps, health, metrics, tokens
from pingup.http.access import (
    ADMIN,
    ANYBODY,
    COMMAND,
    READ,
    THAT_AGENT,
    THAT_AGENT_OR_READ,
    Route,
)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", ANYBODY, health.health),
    Route("GET", "/livez", ANYBODY, health.live),
    Route("GET", "/readyz", ANYBODY, health.ready),
    Route("GET", "/api/v1/agents", READ, agents.page),
    Route("POST", "/api/v1/agents", ADMIN, agents.post),
    Route("GET", "/api/v1/agents/{agent_id}", READ, agents.get),
    Route("PATCH", "/api/v1/agents/{agent_id}", ADMIN, agents.patch),
    Route("DELETE", "/api/v1/agents/{agent_id}", ADMIN, agents.delete),
    Route("POST", "/api/v1/agents/{agent_id}/heartbeat", THAT_AGENT, agents.heartbeat),
    Route("GET", "/api/v1/agents/{agent_id}/gaps", THAT_AGENT_OR_READ, gaps.get),
    Route("GET", "/api/v1/metrics", READ, metrics.newest),
    Route("POST", "/api/v1/metrics", THAT_AGENT, metrics.post),
    Route("GET", "/api/v1/metrics/{agent_id}", THAT_AGENT_OR_READ, metrics.history),
    Route("GET", "/api/v1/commands", READ, commands.page),
    Route("POST", "/api/v1/commands", COMMAND, commands.post),
    Route("GET", "/api/v1/commands/{command_id}", READ, commands.get),
    Route("GET", "/api/v1/commands/pending/{agent_id}", THAT_AGENT_OR_READ, commands.pending),
    Route("POST", "/api/v1/commands/{command_id}/cancel", COMMAND, commands.cancel),
    Route("POST", "/api/v1/commands/{command_id}/result", THAT_AGENT, commands.result),
    Route("GET", "/api/v1/config/{agent_id}", THAT_AGENT_OR_READ, configs.get),
    Route("POST", "/api/v1/config/{agent_id}", ADMIN, configs.post),
    Route("GET", "/api/v1/config/{agent_id}/history", READ, configs.history),
    Route("POST", "/api/v1/config/{agent_id}/rollback", ADMIN, configs.roll_back),
    Route("POST", "/api/v1/discovery", THAT_AGENT, discovery.post),
    Route("GET", "/api/v1/discovery/{agent_id}", READ, discovery.history),
    Route("GET", "/api/v1/discovery/{agent_id}/latest", READ, discovery.latest),
    Route("GET", "/api/v1/tokens", ADMIN, tokens.every),
    Route("POST", "/api/v1/tokens", ADMIN, tokens.post),
    Route("DELETE", "/api/v1/tokens/{token_id}", ADMIN, tokens.delete),
)
