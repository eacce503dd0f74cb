package agent

import agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"

// Health is what an agent tells its Manager of itself.
func Health(a *Agent) *agentv1.Health { return a.health() }
