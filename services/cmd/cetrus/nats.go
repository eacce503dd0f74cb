package main

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// clusterReplicas is how many servers of a cluster hold each stream.
const clusterReplicas = 3

// natsSettings are those of the NATS server beside its address.
type natsSettings struct {
	serverName      string
	clusterName     string
	clusterListen   string
	routes          []string
	replicas        int
	websocketListen string
	websocketPlain  bool
}

func (s *natsSettings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.serverName, "nats-server-name", "", "name of this NATS server in its cluster, which it keeps for as long as its data; default: the host's")
	fs.StringVar(&s.clusterName, "nats-cluster-name", "cetrus", "name of the NATS cluster, where this server is in one")
	fs.StringVar(&s.clusterListen, "nats-cluster-listen", "", "address of this NATS server for the other servers of its cluster; empty: it is alone")
	fs.StringSliceVar(&s.routes, "nats-routes", nil, "addresses, host:port, of all servers of the NATS cluster; this one may be among them")
	fs.IntVar(&s.replicas, "nats-replicas", 0, "how many servers hold each stream; default: 1, in a cluster 3")
	fs.StringVar(&s.websocketListen, "nats-websocket-listen", "", "address of the NATS server for Managers over WebSocket; empty: there is none")
	fs.BoolVar(&s.websocketPlain, "nats-websocket-plain", false, "leave TLS for WebSocket to a proxy before it, as an Ingress that ends TLS")
}

func (s *natsSettings) validate() error {
	var problems []error
	clustered := s.clusterListen != ""
	switch {
	case s.replicas < 0 || s.replicas > 5:
		problems = append(problems, config.Problem("nats-replicas", "", "must be 1, 3 or 5"))
	case s.replicas > 1 && !clustered:
		problems = append(problems, config.Problem("nats-replicas", "", "needs a cluster: give nats-cluster-listen and nats-routes, or take 1"))
	case s.replicas%2 == 0 && s.replicas > 0:
		problems = append(problems, config.Problem("nats-replicas", "", "must be 1, 3 or 5: of an even number one more must live and none more may die"))
	}
	if clustered && len(s.routes) == 0 {
		problems = append(problems, config.Problem("nats-routes", "", "must name the servers of the cluster, as nats-0.nats:6222,nats-1.nats:6222,nats-2.nats:6222"))
	}
	if !clustered && len(s.routes) > 0 {
		problems = append(problems, config.Problem("nats-cluster-listen", "", "must say where the servers of nats-routes reach this one, as 0.0.0.0:6222"))
	}
	return errors.Join(problems...)
}

// validateNATS tells what is wrong with where the NATS server would listen, before anything is made.
func (s *settings) validateNATS() error {
	encrypted := s.tlsDir != ""
	var problems []error
	look := func(setting, value string, wrong error) {
		if wrong != nil {
			problems = append(problems, config.Problem(setting, value, wrong.Error()))
		}
	}
	look("nats-listen", s.natsListen, natsserver.CheckAddress(s.natsListen, encrypted))
	if address := s.nats.websocketListen; address != "" {
		look("nats-websocket-listen", address, natsserver.CheckAddress(address, encrypted || s.nats.websocketPlain))
	}
	if address := s.nats.clusterListen; address != "" {
		look("nats-cluster-listen", address, natsserver.CheckClusterAddress(address, encrypted))
	}
	look("nats-routes", strings.Join(s.nats.routes, ","), natsserver.CheckRoutes(s.nats.routes))
	return errors.Join(problems...)
}

// cluster is the server's place in its cluster; nil where it is alone.
func (s *natsSettings) cluster(password string) *natsserver.ClusterConfig {
	if s.clusterListen == "" {
		return nil
	}
	return &natsserver.ClusterConfig{Name: s.clusterName, Listen: s.clusterListen, Routes: s.routes, Password: password}
}

func (s *natsSettings) streams() natsserver.Streams {
	replicas := 1
	if s.clusterListen != "" {
		replicas = clusterReplicas
	}
	return natsserver.Streams{Replicas: cmp.Or(s.replicas, replicas)}
}

// natsPart is the embedded NATS server, unless the settings name another.
var natsPart = part{
	name: "nats", listens: []string{"nats-listen", "nats-cluster-listen", "nats-websocket-listen"},
	start: func(ctx context.Context, p *process) (runner, error) {
		if p.settings.natsURL != "" {
			return nil, nil
		}
		server, err := p.startNATS(ctx)
		if err != nil {
			return nil, err
		}
		figures, err := measureNATS(server)
		if err != nil {
			server.Stop()
			return nil, err
		}
		path, users := p.managers.path, p.managers.users()
		return func(ctx context.Context) error {
			var watched sync.WaitGroup
			watching, stop := context.WithCancel(ctx)
			watched.Go(func() { p.watchManagers(watching, server, path, users) })
			watched.Go(func() { p.followManagers(watching, server) })
			err := server.Run(ctx)
			stop()
			watched.Wait()
			return errors.Join(err, figures.Unregister())
		}, nil
	},
}

// startNATS starts the server, alone or in a cluster, and sees that the streams are there. Each server of a
// cluster does, which changes nothing where another has; it takes more than half of the servers.
func (p *process) startNATS(ctx context.Context) (_ *natsserver.Server, err error) {
	s := p.settings.nats
	if p.managers, err = p.settings.openManagers(p.keys.Account()); err != nil {
		return nil, err
	}
	if s.serverName == "" && s.clusterListen != "" {
		if s.serverName, err = os.Hostname(); err != nil {
			return nil, config.Problem("nats-server-name", "", "must be given: the host has no name")
		}
	}
	// Who may do everything is this part alone; its password is kept nowhere.
	p.platform = natsserver.PlatformUser(natsserver.NewPassword())
	server, err := natsserver.Start(ctx, natsserver.Config{
		Name: s.serverName, StoreDir: filepath.Join(p.settings.dataDir, "nats"),
		Listen: p.settings.natsListen, WebSocketListen: s.websocketListen, WebSocketPlain: s.websocketPlain,
		Users: append(p.managers.users(), p.platform), Cluster: s.cluster(p.managers.file.Cluster), TLS: p.tls.parts,
		Logger: p.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			server.Stop()
		}
	}()
	p.nats, p.addresses.NATS, p.addresses.NATSWebSocket = server, onThisMachine(server.URL()), onThisMachine(server.WebSocketURL())
	p.addresses.NATSURLs = make(map[string]string)
	for _, name := range natsserver.Roles() {
		p.addresses.NATSURLs[name] = withUser(p.addresses.NATS, p.managers.part(name))
	}
	p.health.worksWith("NATS server", func(context.Context) error { return server.Ready() })
	nc, err := server.Connect(p.platform)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if s.clusterListen != "" {
		p.log.InfoContext(ctx, "the NATS cluster begins when more than half of its servers have found one another", "server", s.serverName, "routes", s.routes)
	}
	// Until the others are there its disk may fail as at any other time.
	while, end := server.While(ctx)
	defer end()
	if err := natsserver.EnsureStreams(while, nc, s.streams()); err != nil {
		return nil, errors.Join(context.Cause(while), err)
	}
	return server, nil
}

// withUser is the URL of a server that lets a user in.
func withUser(server string, user natsserver.User) string {
	scheme, address, _ := strings.Cut(server, "://")
	return scheme + "://" + url.UserPassword(user.Name, user.Password).String() + "@" + address
}
