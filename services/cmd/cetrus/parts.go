package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/console"
	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// keysPart keeps the API keys as their file has them; every target has it.
var keysPart = part{
	name: "keys",
	start: func(_ context.Context, p *process) (runner, error) {
		return func(ctx context.Context) error {
			p.keys.Follow(ctx, p.log)
			return nil
		}, nil
	},
}

// postgresPart is the private PostgreSQL server, unless the settings name another.
var postgresPart = part{
	name: "postgres",
	start: func(ctx context.Context, p *process) (runner, error) {
		if p.settings.postgresURL != "" {
			return nil, nil
		}
		server, err := postgres.StartServer(ctx, postgres.ServerConfig{
			Dir: filepath.Join(p.settings.dataDir, "postgres"), Port: p.settings.postgresPort, Logger: p.log,
		})
		if err != nil {
			return nil, err
		}
		p.addresses.PostgresURL = server.URL()
		p.addresses.Postgres = net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))
		return func(ctx context.Context) error {
			select {
			case <-p.stopping:
			case <-ctx.Done():
			}
			// While other parts stop, most of what it has to write before it ends is written.
			writing, end := context.WithCancel(context.WithoutCancel(ctx))
			var written sync.WaitGroup
			written.Go(func() {
				if err := server.Checkpoint(writing); err != nil && writing.Err() == nil {
					p.log.DebugContext(ctx, "no checkpoint before PostgreSQL is stopped", "error", err)
				}
			})
			<-ctx.Done()
			bounded, cancel := context.WithDeadline(context.WithoutCancel(ctx), p.stopBy.Add(-p.settings.stopWithin/5))
			defer cancel()
			err := server.Stop(bounded)
			end()
			written.Wait()
			return err
		}, nil
	},
}

// keyringPart takes the keys of principals that Managers deposit.
var keyringPart = part{
	name: "keyring",
	start: func(ctx context.Context, p *process) (runner, error) {
		nc, err := p.connect(ctx, natsserver.Keyring, "keyring")
		if err != nil {
			return nil, err
		}
		keys, closeKeys, err := p.openKeyring(ctx, nc)
		if err != nil {
			nc.Close()
			return nil, err
		}
		p.names = keys
		return func(ctx context.Context) error {
			defer nc.Close()
			defer closeKeys()
			return keys.Run(ctx)
		}, nil
	},
}

// openKeyring opens the keyring's tables; nc is nil where it only opens names.
func (p *process) openKeyring(ctx context.Context, nc *nats.Conn) (*keyring.Keyring, func(), error) {
	cfg := keyring.StoreConfig()
	var err error
	if cfg.URL, err = p.database(); err != nil {
		return nil, nil, err
	}
	cfg.Logger = p.log
	if err := p.awaitTables(ctx, cfg.URL, cfg); err != nil {
		return nil, nil, err
	}
	store, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	p.health.worksWith("PostgreSQL", func(ctx context.Context) error { return store.Projector.Ping(ctx) })
	config, err := p.settings.nameKeyConfig()
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	keys, err := keyring.New(ctx, config, keyring.Deps{NATS: nc, Store: store, Logger: p.log})
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return keys, store.Close, nil
}

// opened are things to close, in reverse.
type opened []func()

func (o opened) close() {
	for _, closeOne := range slices.Backward(o) {
		closeOne()
	}
}

// stand opens what a service with names stands on: NATS, with the rights of a role, the keyring
// where none runs in this process, and the URL of the database.
func (p *process) stand(ctx context.Context, role, name string) (nc *nats.Conn, database string, open opened, err error) {
	defer func() {
		if err != nil {
			open.close()
		}
	}()
	if nc, err = p.connect(ctx, role, name); err != nil {
		return nil, "", nil, err
	}
	open = append(open, nc.Close)
	if p.names == nil {
		keys, closeKeys, err := p.openKeyring(ctx, nil)
		if err != nil {
			return nil, "", open, err
		}
		open = append(open, closeKeys)
		p.names = keys
	}
	database, err = p.database()
	return nc, database, open, err
}

// identityPart is the identity service. It makes the operator's account at first start.
var identityPart = part{
	name: "identity",
	start: func(ctx context.Context, p *process) (_ runner, err error) {
		nc, database, open, err := p.stand(ctx, natsserver.Identity, "identity")
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				open.close()
			}
		}()
		if err := p.awaitTables(ctx, database, identity.ViewsConfig(), identity.SecretsConfig()); err != nil {
			return nil, err
		}
		stores, err := identity.OpenStores(ctx, database, p.log)
		if err != nil {
			return nil, err
		}
		open = append(open, stores.Close)
		deps := identity.Deps{NATS: nc, Stores: stores, Keys: p.names, Origins: p.names, Logger: p.log}
		var people *signin.Service // is made before any mail is
		if p.mails != nil {
			deps.Mails = p.mails
			deps.Links = func(ctx context.Context, account, login contract.ID, to string) (string, time.Time, bool, error) {
				return people.Link(ctx, account, login, to)
			}
		}
		service, err := identity.New(identity.Config{Instance: p.settings.instance, Operator: p.keys.Account()}, deps)
		if err != nil {
			return nil, err
		}
		// The log may be there, and have no leader yet.
		if err := p.patiently(ctx, "the event log", func() error { return service.FirstStart(ctx) }); err != nil {
			return nil, err
		}
		if people, err = p.openSignIn(ctx, nc, stores, service); err != nil {
			return nil, err
		}
		guests, err := p.openSingleSignOn(nc, stores, service, people)
		if err != nil {
			return nil, err
		}
		provisioning, err := p.openProvisioning(nc, service)
		if err != nil {
			return nil, err
		}
		p.services = append(p.services, service, people, guests, provisioning)
		return func(ctx context.Context) error {
			defer open.close()
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return service.Run(ctx) })
			group.Go(func() error { return service.TakeOrders(ctx, people) })
			group.Go(func() error { return people.Run(ctx) })
			return group.Wait()
		}, nil
	},
}

// meteringPart is the metering service.
var meteringPart = part{
	name: "metering",
	start: func(ctx context.Context, p *process) (_ runner, err error) {
		nc, database, open, err := p.stand(ctx, natsserver.Metering, "metering")
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				open.close()
			}
		}()
		if err := p.awaitTables(ctx, database, metering.ViewsConfig(), metering.SecretsConfig(), metering.FilesConfig()); err != nil {
			return nil, err
		}
		stores, err := metering.OpenStores(ctx, database, p.log)
		if err != nil {
			return nil, err
		}
		open = append(open, stores.Close)
		deps := metering.Deps{NATS: nc, Stores: stores, Names: p.names, Keys: p.names, Logins: p.callers.Directory, Logger: p.log}
		archived, keys, err := p.openArchive()
		if err != nil {
			return nil, err
		}
		if archived != nil {
			deps.Archive = archive.NewReader(archived, keys, contract.AgentStream)
		}
		service, err := metering.New(metering.Config{Instance: p.settings.instance, Accounts: []contract.ID{p.keys.Account()}, AllowShortGaps: p.settings.allowShortGaps}, deps)
		if err != nil {
			return nil, err
		}
		p.services = append(p.services, service)
		return func(ctx context.Context) error {
			defer open.close()
			return service.Run(ctx)
		}, nil
	},
}

// grpcPart serves the services that started before it.
var grpcPart = part{
	name: "grpc", listens: []string{"grpc-listen"},
	start: func(ctx context.Context, p *process) (runner, error) {
		proxies, err := rpc.ParseProxies(p.settings.trustedProxies)
		if err != nil {
			return nil, err
		}
		deps := rpc.Deps{Authenticator: p.callers, Logger: p.log, Services: p.services}
		if p.names != nil {
			deps.Origins = p.names
		}
		for _, service := range p.services {
			if known, ok := service.(rpc.Principals); ok {
				deps.Principals = known
			}
		}
		server, err := rpc.New(rpc.Config{StopTimeout: time.Second, TrustedProxies: proxies, TLS: p.tls.serverTLS()}, deps)
		if err != nil {
			return nil, err
		}
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.settings.grpcListen)
		if err != nil {
			return nil, errs.As(errs.Precondition, "cetrus", "grpc-listen "+p.settings.grpcListen, "cannot be listened on", err)
		}
		p.addresses.GRPC = onThisMachine(lis.Addr().String())
		return func(ctx context.Context) error { return server.Serve(ctx, lis) }, nil
	},
}

// gatewayPart is REST before the gRPC server of this process, or before the one
// that the settings name.
var gatewayPart = part{
	name: "gateway", listens: []string{"rest-listen"},
	start: func(ctx context.Context, p *process) (runner, error) {
		metering, err := p.dial("metering", p.settings.meteringAddress)
		if err != nil {
			return nil, err
		}
		identity, err := p.dial("identity", p.settings.identityAddress)
		if err != nil {
			return nil, errors.Join(err, metering.Close())
		}
		closeAll := func() error { return errors.Join(metering.Close(), identity.Close()) }
		pages, err := console.New(console.Deps{Metering: metering, Identity: identity, Authenticator: p.callers, Logger: p.log})
		if err != nil {
			return nil, errors.Join(err, closeAll())
		}
		p.arrived()
		service, err := gateway.New(ctx, gateway.Config{Listen: p.settings.restListen, StopTimeout: time.Second, TLS: p.tls.restTLS()}, gateway.Deps{
			Metering: metering, Identity: identity, Authenticator: p.callers, Logger: p.log, Console: pages,
			Ready: func(ctx context.Context) error {
				return errors.Join(serves(ctx, "metering", metering), serves(ctx, "identity", identity))
			},
		})
		if err != nil {
			return nil, errors.Join(err, closeAll())
		}
		p.addresses.REST = "http://" + onThisMachine(service.Addr().String())
		if p.tls.people != nil {
			p.addresses.REST = "https://" + onThisMachine(service.Addr().String())
		}
		p.health.worksWith("metering", func(ctx context.Context) error { return serves(ctx, "metering", metering) })
		p.health.worksWith("identity", func(ctx context.Context) error { return serves(ctx, "identity", identity) })
		return func(ctx context.Context) error {
			defer context.AfterFunc(ctx, pages.Stop)()
			return errors.Join(service.Run(ctx), closeAll())
		}, nil
	},
}

// dial connects to the gRPC server of a service.
func (p *process) dial(name, set string) (*grpc.ClientConn, error) {
	target, err := p.service(name, set)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(p.tls.clientCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		// A service comes back within moments; grpc-go would wait for up to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{
			BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second,
		}}),
		// Of a node that is gone nobody tells: the kernel would wait a quarter of an hour for it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	return conn, errs.As(errs.Invalid, "cetrus", name+"-address "+target, "is no address", err)
}

// serves tells why a service does not serve.
func serves(ctx context.Context, name string, conn *grpc.ClientConn) error {
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = errors.New(answer.GetStatus().String())
	}
	return errs.As(errs.Unavailable, "cetrus.ready", name, "does not serve", err)
}

// managerPart is one Manager in the same process, for the agents of this machine.
// It has no more rights than one elsewhere.
var managerPart = part{
	name: "manager", listens: []string{"manager-agents-listen", "manager-status-listen"},
	start: func(ctx context.Context, p *process) (runner, error) {
		if !p.settings.manager {
			return nil, nil
		}
		var access natsserver.User
		m, err := manager.New(manager.Config{
			DataDir: filepath.Join(p.settings.dataDir, "manager"), AccountID: p.keys.Account(),
			AgentsSecurity: manager.Security(p.settings.managerSecurity), AgentsAddress: p.settings.managerAgentsListen, StatusAddress: p.settings.managerStatusListen,
		}, manager.Deps{
			Log: p.log, Version: release(),
			// Called from Run on, when access is known.
			Platform: func(context.Context, contract.ID) (*nats.Conn, error) {
				return p.nats.Connect(access, nats.Name("manager"))
			},
		})
		if err != nil {
			return nil, err
		}
		var users []natsserver.User
		if access, users, err = addManager(p.settings.dataDir, p.keys.Account(), m.ID()); err == nil {
			err = p.nats.SetUsers(append(users, p.platform)...)
		}
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		p.addresses.ManagerAgents = onThisMachine(m.AgentsAddress())
		p.addresses.ManagerStatus = "http://" + onThisMachine(m.StatusAddress())
		return m.Run, nil
	},
}
