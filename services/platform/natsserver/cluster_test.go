package natsserver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

const clusterPassword = "of the cluster"

// encrypted is a folder of TLS files for this machine, by an authority of its own.
func encrypted(t *testing.T) *tlsfiles.Files {
	t.Helper()
	dir := t.TempDir()
	authority, err := tlsfiles.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue([]string{"localhost", "127.0.0.1"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		tlsfiles.CertificateFile: pair.Certificate, tlsfiles.KeyFile: pair.Key, tlsfiles.AuthorityFile: authority.Certificate,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := tlsfiles.Open(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A cluster speaks TLS only, everywhere, and a certificate alone lets nobody into it.
func TestEncryptedCluster(t *testing.T) {
	files := encrypted(t)
	held, err := ports.Hold(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Release)
	var routes []string
	for _, port := range held.Ports {
		routes = append(routes, fmt.Sprintf("localhost:%d", port)) // certificates are for names
	}
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	manager := natsserver.ManagerUser(contract.ID{1}, contract.ID{2}, natsserver.NewPassword())
	var servers several
	for i, port := range held.Ports {
		servers = append(servers, start(t, natsserver.Config{
			Name: fmt.Sprintf("n%d", i), Listen: "127.0.0.1:0", WebSocketListen: "127.0.0.1:0", TLS: files, Users: []natsserver.User{platform, manager},
			Cluster: &natsserver.ClusterConfig{Name: "encrypted", Listen: fmt.Sprintf("127.0.0.1:%d", port), Routes: routes, Password: clusterPassword},
		}))
	}
	ensure(t, connect(t, servers.at(0), platform), natsserver.Streams{Replicas: 3})
	for i, server := range servers {
		for _, url := range []string{server.URL(), server.WebSocketURL()} {
			url = strings.Replace(url, "0.0.0.0", "127.0.0.1", 1)
			nc, err := nats.Connect(url, append(manager.Options(), nats.ClientTLSConfig(nil, files.Roots))...)
			if err != nil {
				t.Fatalf("%s: %v", url, err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.Stream(t.Context(), contract.AgentStream); err != nil {
				t.Errorf("a Manager at server %d asks about AGENT: %v", i, err)
			}
			if nc, err := nats.Connect(url, manager.Options()...); err == nil {
				nc.Close()
				t.Errorf("%s is known by whatever authority", url)
			}
			nc, err = nats.Connect(url, append(platform.Options(), nats.ClientTLSConfig(nil, files.Roots))...)
			if within := !strings.HasPrefix(url, "wss"); within != (err == nil) {
				t.Errorf("a part of the platform at %s: %v", url, err)
			}
			if err == nil {
				nc.Close()
			}
		}
	}
	awaitServers(t, servers)

	if answer, err := knockAtRoute(t, held.Addresses()[0], files, clusterPassword); err != nil || strings.Contains(answer, "-ERR") {
		t.Errorf("a server of the cluster is answered %q, %v", answer, err)
	}
	if answer, err := knockAtRoute(t, held.Addresses()[0], files, "guessed"); err != nil || !strings.Contains(answer, "Authorization Violation") {
		t.Errorf("a part that has a certificate and not the password is answered %q, %v", answer, err)
	}
	if answer, err := knockAtRoute(t, held.Addresses()[0], nil, clusterPassword); err == nil {
		t.Errorf("who has no certificate is answered %q", answer)
	}
}

// awaitServers waits until each says that it is ready; of Managers it is told that there are none.
func awaitServers(t *testing.T, servers several) {
	t.Helper()
	for _, server := range servers {
		if err := server.Ready(); err == nil {
			t.Errorf("ready before it knows its Managers")
		}
		if err := server.SetManagers(); err != nil {
			t.Fatal(err)
		}
		for late := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
			err := server.Ready()
			if err == nil {
				break
			}
			if time.Now().After(late) {
				t.Fatal(err)
			}
		}
	}
}

// knockAtRoute says to a server that another one of its cluster calls, and returns what it answers.
func knockAtRoute(t *testing.T, address string, files *tlsfiles.Files, password string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{InsecureSkipVerify: true} // whose server it is, the test knows
	if files != nil {
		config = files.Client()
	}
	config.ServerName = "localhost"
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"user\":\"cluster\",\"pass\":%q,\"tls_required\":true,\"name\":\"knocks\",\"cluster\":\"encrypted\"}\r\nPING\r\n", password)
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4096))
	if len(answer) > 0 {
		err = nil // how it ended is of no interest
	}
	return string(answer), err
}

// A server of a cluster deletes streams that its cluster does not know: so it takes no folder of one that was
// alone, nor of another server, and one that is alone takes none of a cluster.
func TestFilesStayWithTheirServer(t *testing.T) {
	user := natsserver.PlatformUser("x")
	alone := func(dir string) natsserver.Config {
		return natsserver.Config{StoreDir: dir, Listen: "127.0.0.1:0", Users: []natsserver.User{user}, Logger: quiet()}
	}
	inCluster := func(dir, name string) natsserver.Config {
		config := alone(dir)
		config.Name = name
		held, err := ports.Hold(1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(held.Release)
		config.Cluster = &natsserver.ClusterConfig{Name: "c", Listen: held.Addresses()[0], Routes: held.Addresses(), Password: clusterPassword}
		return config
	}
	try := func(config natsserver.Config) error {
		s, err := natsserver.Start(t.Context(), config)
		if err == nil {
			s.Stop()
		}
		return err
	}
	was, is := t.TempDir(), t.TempDir()
	s := start(t, alone(was))
	ensure(t, connect(t, s, user), natsserver.Streams{})
	s.Stop()
	if err := try(inCluster(was, "n0")); err == nil || !strings.Contains(err.Error(), "ran alone") {
		t.Errorf("files of a server that ran alone: %v", err)
	}
	if err := try(alone(was)); err != nil {
		t.Errorf("its own files: %v", err)
	}
	if err := try(inCluster(is, "n0")); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if err := try(inCluster(is, "n0")); err != nil {
		t.Errorf("its own files: %v", err)
	}
	if err := try(inCluster(is, "n1")); err == nil || !strings.Contains(err.Error(), "are of server n0 of cluster c") {
		t.Errorf("files of another server: %v", err)
	}
	if err := try(alone(is)); err == nil || !strings.Contains(err.Error(), "are of server n0 of cluster c") {
		t.Errorf("files of a cluster: %v", err)
	}
}
