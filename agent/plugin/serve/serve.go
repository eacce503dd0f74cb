// Package serve is what a plug-in's main calls: hashicorp/go-plugin's server with
// Cetrus's contract. It is for plug-ins, and never part of the agent.
package serve

import (
	"context"
	"errors"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent/plugin"
)

// Run serves a plug-in to the agent that started this program, until the agent ends it.
func Run(p plugin.Plugin) {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: plugin.ContractVersion, MagicCookieKey: plugin.CookieKey, MagicCookieValue: plugin.CookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{
			plugin.ContractVersion: {"plugin": &bridge{plugin: p}},
		},
		GRPCServer: goplugin.DefaultGRPCServer,
	})
}

type bridge struct {
	goplugin.NetRPCUnsupportedPlugin
	plugin plugin.Plugin
}

// GRPCServer implements goplugin.GRPCPlugin.
func (b *bridge) GRPCServer(_ *goplugin.GRPCBroker, server *grpc.Server) error {
	plugin.Register(server, b.plugin)
	return nil
}

// GRPCClient implements goplugin.GRPCPlugin; the agent has a client of its own.
func (*bridge) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("serve: a plug-in does not start plug-ins")
}
