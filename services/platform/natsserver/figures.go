package natsserver

import (
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// Figures are how a server is doing.
type Figures struct {
	// Ready is what Ready says.
	Ready bool
	// Connections of all users; Servers of its cluster that it is connected to, itself among them.
	Connections, Servers int
	// StoredBytes are in its files, of at most StoreLimitBytes: then it takes nothing more.
	StoredBytes, StoreLimitBytes int64
	// Streams are those that it leads: of all of them where it is alone.
	Streams []StreamFigures
}

// StreamFigures are how a stream is doing. There are few streams, and what people do makes no more.
type StreamFigures struct {
	Name            string
	Messages, Bytes int64
	// Copies are current, the leader's own among them, of the Replicas that there have to be.
	Copies, Replicas int
}

// Figures tells how the server is doing.
func (s *Server) Figures() (Figures, error) {
	info, err := s.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true, StreamLeaderOnly: true})
	if err != nil {
		return Figures{}, fmt.Errorf("natsserver: %s: %w", s.config.Name, err)
	}
	f := Figures{
		Ready: s.Ready() == nil, Connections: s.server.NumClients(), Servers: 1 + s.server.NumRemotes(),
		StoredBytes: int64(info.Store), StoreLimitBytes: info.Config.MaxStore,
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			of := StreamFigures{
				Name: stream.Name, Messages: int64(stream.State.Msgs), Bytes: int64(stream.State.Bytes),
				Copies: 1, Replicas: stream.Config.Replicas,
			}
			if stream.Cluster != nil {
				for _, peer := range stream.Cluster.Replicas {
					if peer.Current && !peer.Offline {
						of.Copies++
					}
				}
			}
			f.Streams = append(f.Streams, of)
		}
	}
	return f, nil
}
