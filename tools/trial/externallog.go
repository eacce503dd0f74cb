package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

// logHost is the machine, as the cluster knows it by name.
const logHost = "machine.test"

// Ports of the first server of the event log outside; those of the others follow.
const (
	logPort          = 14222
	logRoutesPort    = 16222
	logWebSocketPort = 18443
)

// logServers is how many there are.
const logServers = 3

// externalLog installs the platform anew on an event log outside the cluster, as docs/operations/install.md tells, and
// has a Manager and agents use it. One of the servers of that log dies meanwhile.
func externalLog(ctx context.Context, t *trial) (err error) {
	dir := filepath.Join(t.Dir, "external-log")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	program, err := stack.Build(ctx, dir, "services/cmd/cetrus")
	if err != nil {
		return err
	}
	secrets := filepath.Join(dir, "secrets")
	out, err := exec.CommandContext(ctx, program, "secrets", "--output", secrets, "--namespace", namespace, "--prefix", "cetrus",
		"--tls-name", "nats="+logHost, "--postgres-host", "cetrus-postgres."+namespace+".svc").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cetrus secrets: %w: %s", err, out)
	}
	log, err := t.startLog(ctx, program, dir, secrets)
	defer func() { err = errors.Join(err, log.stop()) }()
	if err != nil {
		return err
	}
	given, err := t.giveSecrets(ctx, secrets)
	if err != nil {
		return err
	}
	if err := t.apply(ctx, log.service()); err != nil {
		return err
	}
	t.platform = &release{t: t, name: "cetrus", chart: filepath.Join(t.current.charts, "cetrus"), values: append(wayIn(),
		"secrets.create=false", "tls.source=supplied", "nats.enabled=false", "nats.websocketService=log", `nats.url=`+strings.Join(log.urls(), `\,`),
	)}
	took, err := t.platform.install(ctx)
	if err != nil {
		return err
	}
	t.site = &site{t: t, dir: dir}
	if err := use(ctx, t); err != nil {
		return err
	}
	log.servers[0].Kill()
	before := t.usage.ledger.Events()
	if err := stack.Wait(ctx, time.Minute, "agents to record on", func() error {
		if more := t.usage.ledger.Events() - before; more < 500 {
			return fmt.Errorf("%d events are recorded since a server of the log was killed", more)
		}
		return nil
	}); err != nil {
		return err
	}
	events, keys := t.result.Events, t.result.Keys
	if err := t.compare(ctx); err != nil {
		return err
	}
	t.result.Events += events
	t.result.Keys += keys
	if err := t.leave(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{
		append([]string{"delete", "secret"}, given...),
		{"delete", "pvc", "--selector", "app.kubernetes.io/instance=" + t.platform.name},
		{"delete", "service,endpointslice", "--selector", "kubernetes.io/service-name=log"},
	} {
		if _, err := t.kubectl(ctx, append(args, "--namespace", namespace)...); err != nil {
			return err
		}
	}
	if err := t.nothingBut(ctx, t.wasThere, func(string) bool { return false }); err != nil {
		return err
	}
	return t.line("external_log_install", took.Seconds(), "s", readyWithin.Seconds(), nil)
}

// outerLog are the servers of an event log on the machine, outside the cluster.
type outerLog struct {
	t       *trial
	servers []*stack.Process
}

// startLog starts them, each with no more of the installation's secrets than its own, and waits until each says that it is
// ready.
func (t *trial) startLog(ctx context.Context, program, dir, secrets string) (*outerLog, error) {
	log := &outerLog{t: t}
	credentials := filepath.Join(dir, "credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		return log, err
	}
	for _, file := range []string{"cetrus-account/account.json", "cetrus-nats-users/nats-users.json"} {
		if err := os.Link(filepath.Join(secrets, file), filepath.Join(credentials, filepath.Base(file))); err != nil {
			return log, err
		}
	}
	host := t.cluster.Addresses.Host.String()
	var routes []string
	for number := range logServers {
		routes = append(routes, fmt.Sprintf("localhost:%d", logRoutesPort+number)) // a name, as certificates are for names
	}
	for number := range logServers {
		at := func(port int) string { return fmt.Sprintf("%s:%d", host, port+number) }
		name := fmt.Sprintf("log-%d", number)
		server, err := stack.Start(stack.Command{
			Name: name, Path: program, Log: filepath.Join(dir, name+".log"), Args: []string{
				"nats", "--data-dir", filepath.Join(dir, name), "--credentials-dir", credentials, "--tls-dir", filepath.Join(secrets, "cetrus-tls-nats"),
				"--nats-server-name", name, "--nats-listen", at(logPort), "--nats-cluster-listen", fmt.Sprintf("127.0.0.1:%d", logRoutesPort+number), "--nats-routes", strings.Join(routes, ","),
				"--nats-websocket-listen", at(logWebSocketPort), "--health-listen", "127.0.0.1:0",
			},
		})
		if err != nil {
			return log, err
		}
		log.servers = append(log.servers, server)
	}
	for number, server := range log.servers {
		if err := stack.Wait(ctx, time.Minute, server.Name()+" to be in the cluster of the log", server.Running(func() error {
			_, err := stack.ReadAddresses(filepath.Join(dir, fmt.Sprintf("log-%d", number)), "nats")
			return err
		})); err != nil {
			return log, err
		}
	}
	return log, nil
}

func (l *outerLog) urls() (urls []string) {
	for number := range logServers {
		urls = append(urls, fmt.Sprintf("tls://%s:%d", logHost, logPort+number))
	}
	return urls
}

// service is the Service by which the Ingress reaches them. Each listens on a port of its own, so has a slice of its own.
func (l *outerLog) service() string {
	var text strings.Builder
	text.WriteString(`
apiVersion: v1
kind: Service
metadata: {name: log, namespace: ` + namespace + `, labels: {kubernetes.io/service-name: log}}
spec: {ports: [{name: websocket, port: 8443}]}
`)
	for number := range logServers {
		fmt.Fprintf(&text, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: log-%d, namespace: `+namespace+`, labels: {kubernetes.io/service-name: log}}
addressType: IPv4
ports: [{name: websocket, port: %d}]
endpoints: [{addresses: [%s]}]
`, number, logWebSocketPort+number, l.t.cluster.Addresses.Host)
	}
	return text.String()
}

func (l *outerLog) stop() error {
	var failures []error
	for _, server := range l.servers {
		failures = append(failures, server.Stop(30*time.Second))
	}
	return errors.Join(failures...)
}

// kept are secrets that the pods of the platform do without where the event log is elsewhere.
var kept = []string{"cetrus-nats-users", "cetrus-tls-nats", "cetrus-tls-ca"}

// giveSecrets makes Secrets of the folders of `cetrus secrets`, and names them.
func (t *trial) giveSecrets(ctx context.Context, dir string) (names []string, err error) {
	folders, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if slices.Contains(kept, folder.Name()) {
			continue
		}
		names = append(names, folder.Name())
		if _, err := t.kubectl(ctx, "create", "secret", "generic", folder.Name(), "--namespace", namespace, "--from-file", filepath.Join(dir, folder.Name())); err != nil {
			return names, err
		}
	}
	return names, nil
}
