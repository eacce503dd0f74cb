package rpc

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ClientTLS are the credentials of a client whose settings are asked for anew for each connection: they may
// be others then, as certificates are renewed.
func ClientTLS(settings func() *tls.Config) credentials.TransportCredentials {
	return &clientTLS{TransportCredentials: credentials.NewTLS(settings()), settings: settings}
}

type clientTLS struct {
	credentials.TransportCredentials

	settings func() *tls.Config
}

func (c *clientTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.settings()).ClientHandshake(ctx, authority, conn)
}

func (c *clientTLS) Clone() credentials.TransportCredentials { return ClientTLS(c.settings) }

// isPart tells whether whoever calls has shown a certificate that this server asks for: it is a part of the
// platform.
func isPart(from *peer.Peer) bool {
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	return ok && len(info.State.VerifiedChains) > 0
}
