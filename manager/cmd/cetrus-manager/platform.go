package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/proxy"
)

// dialPatience is how long a connection to the platform may take to be made, and then the platform to
// begin to speak TLS or HTTP on it.
const dialPatience = 10 * time.Second

// noWebSocket is how nats.go says that HTTP was answered, and not by a WebSocket.
const noWebSocket = "invalid websocket connection"

// checkPlatform tells what is wrong with where the platform is said to be.
func (s settings) checkPlatform() error {
	if _, err := manager.Authorities(s.PlatformCAFile); err != nil {
		return err
	}
	if s.PlatformURL == "" {
		return nil
	}
	for one := range strings.SplitSeq(s.PlatformURL, ",") {
		// What is wrong with a URL is not repeated: there may be a password in it.
		at, err := url.Parse(strings.TrimSpace(one))
		if err != nil || at.Hostname() == "" {
			return errors.New("platform_url is no wss://host/path, nor tls://host:port")
		}
		switch at.Scheme {
		case "wss", "ws":
		case "tls", "nats":
			if strings.Trim(at.Path, "/") != "" {
				return fmt.Errorf("platform_url has the path %s, which %s knows nothing of: wss:// has paths", at.Path, at.Scheme)
			}
		default:
			return fmt.Errorf("platform_url begins with %s://: it is wss://host/path, or tls://host:port", at.Scheme)
		}
		if s.PlatformCAFile != "" && at.Scheme == "ws" {
			return errors.New("platform_ca_file is given, and platform_url with ws:// encrypts nothing: it is wss://")
		}
	}
	return nil
}

// platform connects out to the platform; nothing comes in.
func (s settings) platform() func(context.Context, contract.ID) (*nats.Conn, error) {
	if s.PlatformURL == "" {
		return nil
	}
	return func(_ context.Context, id contract.ID) (*nats.Conn, error) {
		options := []nats.Option{
			nats.Name("cetrus-manager"), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectBufSize(-1),
			nats.ReconnectJitter(500*time.Millisecond, time.Second), nats.Timeout(5 * time.Second), nats.PingInterval(20 * time.Second),
			nats.CustomInboxPrefix(contract.ManagerInbox(id)),
			// The proxy looks the name up, and exceptions from it go by the name.
			nats.SetCustomDialer(dialer(s.Proxy)), nats.SkipHostLookup(),
			// The way in is the one that was told, whatever addresses the servers have among themselves.
			nats.IgnoreDiscoveredServers(),
		}
		if s.PlatformCAFile != "" {
			options = append(options, nats.RootCAs(s.PlatformCAFile))
		}
		own, enrolled, err := manager.PlatformKey(s.DataDir)
		switch {
		case err != nil:
			return nil, err
		case s.PlatformCreds != "":
			options = append(options, nats.UserCredentials(s.PlatformCreds))
		case enrolled && !strings.Contains(s.PlatformURL, "@"): // who names a user means it
			options = append(options, own)
		}
		nc, err := nats.Connect(s.PlatformURL, options...)
		if err != nil && err.Error() == noWebSocket {
			err = fmt.Errorf("what answers at the path of platform_url is not the platform's NATS: it is /nats where the platform's charts have set it up: %w", err)
		}
		return nc, manager.ExplainTLS(err)
	}
}

// dialer goes out through the proxy of a setting, or of the environment.
type dialer string

// Dial implements nats.CustomDialer.
func (d dialer) Dial(_, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	conn, err := proxy.Dial(ctx, string(d), "cetrus-manager", address)
	if err != nil {
		return nil, err
	}
	// nats.go bounds what it reads from here on only once TLS and WebSocket stand; it lifts this.
	if err := conn.SetReadDeadline(time.Now().Add(dialPatience)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
